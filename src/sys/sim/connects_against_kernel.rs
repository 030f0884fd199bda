//! The same random listens, connects and accepts on the kernel and on the simulated system, as in `against_kernel.rs`.
//!
//! Left out: a TCP backlog that is full. The kernel answers the connects that wait by a timer, up to seconds later.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::super::listener::tests::Folder;
use super::super::{self as real, Errno, ListenOptions, StreamOptions};
use super::against_kernel::{Dice, Selectors, compare_recv, expect};
use super::{Socket, World};

/// The token of the listener; others count from 1.
const LISTENER: u64 = 0;

#[derive(Clone, Copy, Debug)]
enum Call {
    Listen,
    StopListening,
    Unlink,
    Connect,
    Accept,
    Connected,
    Send,
    Recv,
    Close,
}

impl Call {
    fn random(dice: &mut Dice) -> Self {
        match dice.roll(24) {
            0..3 => Self::Listen,
            3 => Self::StopListening,
            4 => Self::Unlink,
            5..10 => Self::Connect,
            10..14 => Self::Accept,
            14..17 => Self::Connected,
            17..20 => Self::Send,
            20..23 => Self::Recv,
            _ => Self::Close,
        }
    }
}

/// Where one listens: an address of each system, or one path of both.
enum Place {
    Ip { kernel: SocketAddr, sim: SocketAddr },
    Path(PathBuf),
}

struct Twins {
    token: u64,
    kernel: real::Socket,
    sim: Socket,
}

struct Life {
    world: World,
    place: Place,
    selectors: Selectors,
    listener: Option<(real::Socket, Socket)>,
    /// Who has connected, and who was accepted.
    twins: Vec<Twins>,
    tokens: u64,
}

fn kind<T>(result: std::io::Result<T>) -> Result<T, std::io::ErrorKind> {
    result.map_err(|error| error.kind())
}

impl Life {
    /// 127.0.0.77: nobody else's test may take a port there while nobody listens.
    fn new(folder: Option<&Folder>) -> Self {
        let world = World::enter();
        let place = match folder {
            Some(folder) => Place::Path(folder.path("place")),
            None => {
                let any = SocketAddr::from(([127, 0, 0, 77], 0));
                let kernel = real::listen_tcp(any, &ListenOptions::default()).unwrap();
                let sim = super::listen_tcp(any, &ListenOptions::default()).unwrap();
                Place::Ip { kernel: real::local_addr(&kernel).unwrap(), sim: super::local_addr(&sim).unwrap() }
            }
        };
        Self { world, place, selectors: Selectors::new(), listener: None, twins: Vec::new(), tokens: 0 }
    }

    fn add(&mut self, kernel: real::Socket, sim: Socket) {
        self.tokens += 1;
        self.selectors.register(self.tokens, &kernel, &sim);
        self.twins.push(Twins { token: self.tokens, kernel, sim });
    }

    fn listen(&mut self, backlog: u32) {
        let usual = ListenOptions::default();
        let (kernel, sim) = match &self.place {
            Place::Ip { kernel, sim } => (real::listen_tcp(*kernel, &usual), super::listen_tcp(*sim, &usual)),
            Place::Path(path) => {
                let options = ListenOptions { backlog, ..usual };
                (real::listen_unix(path, &options), super::listen_unix(path, &options))
            }
        };
        match (kind(kernel), kind(sim)) {
            (Ok(kernel), Ok(sim)) => {
                self.selectors.register(LISTENER, &kernel, &sim);
                self.listener = Some((kernel, sim));
            }
            (kernel, sim) => assert_eq!(kernel.err(), sim.err(), "the kernel's listen, and ours"),
        }
    }

    fn connect(&mut self) {
        let options = StreamOptions::default();
        let (kernel, sim) = match &self.place {
            Place::Ip { kernel, sim } => {
                let (kernel, begun) = real::connect_tcp(*kernel, &options).unwrap();
                let (sim, simulated) = super::connect_tcp(*sim, &options).unwrap();
                assert_eq!(begun, simulated);
                (Ok(kernel), Ok(sim))
            }
            Place::Path(path) => (real::connect_unix(path, &options), super::connect_unix(path, &options)),
        };
        match (kernel, sim) {
            (Ok(kernel), Ok(sim)) => self.add(kernel, sim),
            (kernel, sim) => assert_eq!(kernel.err(), sim.err(), "the kernel's connect, and ours"),
        }
    }

    fn accept(&mut self) {
        let Some((kernel, sim)) = &self.listener else { return };
        let mut accepted = (None, None);
        let answer = super::accept(sim).map(|(socket, peer)| {
            accepted.1 = Some(socket);
            peer.is_some()
        });
        let taken = std::cell::RefCell::new(&mut accepted.0);
        expect(answer, || {
            real::accept(kernel).map(|(socket, peer)| {
                **taken.borrow_mut() = Some(socket);
                peer.is_some()
            })
        });
        if let (Some(kernel), Some(sim)) = accepted {
            self.add(kernel, sim);
        }
    }

    fn call(&mut self, call: Call, dice: &mut Dice) {
        let chosen = dice.roll(self.twins.len().max(1) as u64);
        match (call, self.twins.get(chosen)) {
            (Call::Listen, _) => self.listen(u32::try_from(dice.roll(3)).unwrap()),
            (Call::StopListening, _) => {
                self.listener = None;
                self.selectors.forget(LISTENER);
            }
            (Call::Unlink, _) => {
                if let Place::Path(path) = &self.place {
                    assert_eq!(std::fs::remove_file(path).is_ok(), self.world.unlink(path));
                }
            }
            (Call::Connect, _) => self.connect(),
            (Call::Accept, _) => self.accept(),
            (_, None) => {}
            (Call::Connected, Some(Twins { kernel, sim, .. })) => {
                let address = |peer: Option<SocketAddr>| peer.is_some();
                expect(super::connected(sim).map(address), || real::connected(kernel).map(address));
            }
            (Call::Send, Some(Twins { kernel, sim, .. })) => {
                let bytes = [IoSlice::new(b"hello")];
                expect(super::send(sim, &bytes), || real::send(kernel, &bytes));
            }
            (Call::Recv, Some(Twins { kernel, sim, .. })) => compare_recv(kernel, sim, 1 + dice.roll(8)),
            (Call::Close, Some(_)) => self.selectors.forget(self.twins.swap_remove(chosen).token),
        }
    }
}

fn live(dice: &mut Dice, folder: Option<&Folder>) {
    eprintln!("a new {} place", if folder.is_some() { "Unix" } else { "TCP" });
    let mut life = Life::new(folder);
    for _ in 0..40 {
        let call = Call::random(dice);
        // Shown if the comparison fails.
        eprintln!("{call:?} of {}", life.twins.len());
        life.call(call, dice);
        life.selectors.compare();
    }
}

#[test]
fn unix_connects_behave_as_the_kernels() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    (0..300).for_each(|_| live(&mut dice, Some(&Folder::new())));
}

#[test]
fn tcp_connects_behave_as_the_kernels() {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    (0..300).for_each(|_| live(&mut dice, None));
}

#[test]
fn a_connect_that_never_ends_is_asked_about_in_vain_on_both() {
    let _world = World::enter();
    let options = ListenOptions { backlog: 0, ..ListenOptions::default() };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (kernel, sim) = (real::listen_tcp(any, &options).unwrap(), super::listen_tcp(any, &options).unwrap());
    let usual = StreamOptions::default();
    let kernel = [0; 2].map(|_| real::connect_tcp(real::local_addr(&kernel).unwrap(), &usual).unwrap().0);
    let sim = [0; 2].map(|_| super::connect_tcp(super::local_addr(&sim).unwrap(), &usual).unwrap().0);
    expect(Ok(true), || real::connected(&kernel[0]).map(|peer| peer.is_some()));
    assert!(super::connected(&sim[0]).is_ok());
    assert_eq!((real::connected(&kernel[1]), super::connected(&sim[1])), (Err(Errno::AGAIN), Err(Errno::AGAIN)));
    assert_eq!(real::recv_slice(&kernel[1], &mut [0; 1]), super::recv_slice(&sim[1], &mut [0; 1]));
    let bytes = [IoSlice::new(b"x")];
    assert_eq!(real::send(&kernel[1], &bytes), super::send(&sim[1], &bytes));
    assert_eq!((real::peer_addr(&kernel[1]), super::peer_addr(&sim[1])), (None, None));
}
