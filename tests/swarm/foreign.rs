//! A second real thread, which does one thing at a time while the first waits for it: foreign submissions through the ring,
//! in an order that the seed decides.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Foreign {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Foreign {
    pub(crate) fn new() -> Self {
        let (jobs, todo): (Sender<Job>, Receiver<Job>) = channel();
        let thread = thread::spawn(move || todo.iter().for_each(|job| job()));
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    /// Does it over there, and waits for it.
    pub(crate) fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (answer, answered) = channel();
        let job: Job = Box::new(move || drop(answer.send(job())));
        self.jobs.as_ref().expect("open until the drop").send(job).expect("a thread that waits for jobs");
        answered.recv().expect("a job that did not panic")
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
