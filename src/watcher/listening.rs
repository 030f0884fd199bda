//! Listeners that the loop makes itself: bound, with options, and handed over in one call.

use std::net::SocketAddr;
use std::path::Path;

use crate::error::DelegateErrorKind;
use crate::sys::{self, ListenOptions, StreamOptions};
use crate::watcher::submitter::{Listener, Submitter};

impl<C> Submitter<C> {
    /// Listens on a TCP address, and accepts as [`listen`](Self::listen) does. Port 0 is any that is free:
    /// [`Listener::local_addr`] tells which. From the return on, clients can connect.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
    /// let listener = submitter.listen_on("127.0.0.1:0".parse()?, &gaio::ListenOptions::default())?;
    /// let _client = std::net::TcpStream::connect(listener.local_addr().unwrap())?;
    /// assert!(matches!(watcher.wait()?.next(), Some(gaio::Event::Accepted { .. })));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Os` if the address cannot be had, or an option is none; `Closed`, and on the thread of another loop `Full`.
    pub fn listen_on(&self, addr: SocketAddr, options: &ListenOptions) -> Result<Listener<C>, DelegateErrorKind> {
        let socket = sys::listen_tcp(addr, options).map_err(DelegateErrorKind::Os)?;
        self.hand_over(socket, false, 0, None).map_err(|(kind, _)| kind)
    }

    /// Listens at a path, and accepts as [`listen`](Self::listen) does. Of the options the backlog and the sizes of the
    /// buffers count; the latter are set for each connection as it is accepted, since Unix sockets inherit nothing.
    ///
    /// The path must not exist yet, not even as what a listener that is gone has left behind: to remove that, and this one
    /// when it is done with, is yours.
    ///
    /// # Errors
    /// As [`listen_on`](Self::listen_on).
    pub fn listen_unix(
        &self,
        path: impl AsRef<Path>,
        options: &ListenOptions,
    ) -> Result<Listener<C>, DelegateErrorKind> {
        let socket = sys::listen_unix(path.as_ref(), options).map_err(DelegateErrorKind::Os)?;
        let StreamOptions { recv_buffer, send_buffer, .. } = options.streams;
        let buffers = (recv_buffer.is_some() || send_buffer.is_some()).then(|| Box::new(options.streams));
        self.hand_over(socket, true, 0, buffers).map_err(|(kind, _)| kind)
    }
}
