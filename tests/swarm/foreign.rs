//! Other threads that submit: real ones, of which one at a time does one thing while the script waits for it, in an order
//! that the seed decides. One may stand still in the middle of its push, and go on much later.

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use gaio::sim::{stall_next_push, stall_no_push};

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Foreign {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Lets the push that stands still go on, and waits for its end.
    stalled: RefCell<Option<Box<dyn FnOnce()>>>,
}

/// Who does something.
#[derive(Clone, Copy)]
pub(crate) enum Who<'f> {
    /// The thread of the script, which is the loop's own if that is embedded.
    Script,
    Other(&'f Foreign),
    /// Another one, which stands still between reserving a slot of the ring and publishing it.
    Stalls(&'f Foreign),
}

impl Foreign {
    pub(crate) fn new() -> Self {
        let (jobs, todo): (Sender<Job>, Receiver<Job>) = channel();
        let thread = thread::spawn(move || todo.iter().for_each(|job| job()));
        Self { jobs: Some(jobs), thread: Some(thread), stalled: RefCell::default() }
    }

    fn start(&self, job: Job) {
        self.jobs.as_ref().expect("open until the drop").send(job).expect("a thread that waits for jobs");
    }

    /// Does it over there, and waits for it.
    pub(crate) fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (answer, answered) = channel();
        self.start(Box::new(move || drop(answer.send(job()))));
        answered.recv().expect("a job that did not panic")
    }

    /// The same, with a push that stands still. `None`: it does; so it has its slot, and will succeed.
    fn run_stalled<T: Send + 'static, E: Debug + Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Option<Result<T, E>> {
        let (answer, answered) = channel();
        let (go_on, told_to) = channel::<()>();
        let stands = answer.clone();
        self.start(Box::new(move || {
            stall_next_push(move || {
                let _ = stands.send(None);
                let _ = told_to.recv();
            });
            let result = job();
            stall_no_push();
            let _ = answer.send(Some(result));
        }));
        let first = answered.recv().expect("a job that did not panic");
        if first.is_none() {
            let resume = move || {
                let _ = go_on.send(());
                let result = answered.recv().expect("a job that did not panic").expect("one push");
                assert!(result.is_ok(), "what has its slot is refused: {:?}", result.err());
            };
            self.stalled.replace(Some(Box::new(resume)));
        }
        first
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.borrow().is_some()
    }

    /// What stands still goes on, to its end. Says whether anything stood.
    pub(crate) fn resume(&self) -> bool {
        let resume = self.stalled.take();
        let stood = resume.is_some();
        resume.into_iter().for_each(|resume| resume());
        stood
    }
}

impl Who<'_> {
    /// Does it there. `None`: its push stands still, and has succeeded otherwise.
    pub(crate) fn run<T: Send + 'static, E: Debug + Send + 'static>(
        self,
        job: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Option<Result<T, E>> {
        match self {
            Self::Script => Some(job()),
            Self::Other(foreign) => Some(foreign.run(job)),
            Self::Stalls(foreign) => foreign.run_stalled(job),
        }
    }

    /// The same, of which nothing may stand still.
    pub(crate) fn run_whole<R: Send + 'static>(self, job: impl FnOnce() -> R + Send + 'static) -> R {
        match self {
            Self::Script => job(),
            Self::Other(foreign) | Self::Stalls(foreign) => foreign.run(job),
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // If a script has failed, its push may still stand there: this ends its wait.
        self.stalled.take();
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
