//! `gaio::sim::seeds`: a seed repeats, with typed sessions too, and one that fails says how. Run by `ci/sim.sh`.

#![cfg(gaio_sim)]

use std::env;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaio::sim::{Dice, Fault, Faults, World, seeds};
use gaio::{End, Expect, Hub, Io, Next, Protocol, SessionLimits, SessionLoop};

type Log = Arc<Mutex<Vec<(usize, String)>>>;

/// Says to all what it hears, and notes down what it is told.
struct Shouter {
    me: usize,
    hub: Option<Hub<Self>>,
    log: Log,
}

impl Shouter {
    fn note(&self, text: String) {
        self.log.lock().unwrap().push((self.me, text));
    }
}

impl Protocol for Shouter {
    type Message = Vec<u8>;

    fn expects(&self) -> Expect {
        Expect::any().at_most(8).idle_within(Duration::from_secs(5))
    }

    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        io.join(1);
        io.timer(1, Duration::from_millis(self.me as u64));
        Next::Become(self)
    }

    fn on_timer(self, name: u64, _io: &mut Io<'_, Self>) -> Next<Self> {
        self.note(format!("timer {name}"));
        Next::Become(self)
    }

    fn on_frame(self, frame: &[u8], _io: &mut Io<'_, Self>) -> Next<Self> {
        self.note(format!("frame {frame:?}"));
        let hub = self.hub.as_ref().expect("sessions have one");
        // A loop that is behind refuses it; that is a part of what must repeat.
        let refused = hub.broadcast(1, frame.to_vec()).is_err();
        self.note(format!("refused {refused}"));
        Next::Become(self)
    }

    fn on_message(self, message: Vec<u8>, io: &mut Io<'_, Self>) -> Next<Self> {
        self.note(format!("message {message:?}"));
        io.write(&message);
        Next::Become(self)
    }

    fn on_end(state: Option<Self>, end: &End) {
        if let Some(state) = state {
            state.note(format!("end {end}"));
        }
    }
}

/// Everything that can be seen of one run, step by step.
fn shout(world: &World, dice: &mut Dice) -> Vec<String> {
    world.configure(|config| {
        config.faults = Faults::random(dice);
        config.buffer = 1 + dice.roll(32);
    });
    let log = Log::default();
    let (mut sessions, hub) = SessionLoop::<Shouter>::new(SessionLimits::default(), |_peer| None).unwrap();
    let mut peers = Vec::new();
    for me in 0..8 {
        let (socket, peer) = if dice.roll(2) == 0 { world.pair() } else { world.unix_pair() };
        hub.adopt(socket, Shouter { me, hub: Some(hub.clone()), log: log.clone() })
            .map_err(|(error, _)| error)
            .unwrap();
        peers.push(peer);
    }
    let mut answers = Vec::new();
    for _ in 0..100 {
        let peer = &peers[dice.roll(peers.len())];
        let mut buf = [0; 8];
        answers.push((peer.send(&buf[..=dice.roll(4)]).ok(), peer.recv(&mut buf).ok()));
        sessions.turn(Some(Duration::from_micros(dice.roll(20_000) as u64))).unwrap();
    }
    drop(sessions);
    let log = std::mem::take(&mut *log.lock().unwrap());
    let mut seen: Vec<String> = log.iter().map(|(who, text)| format!("{who}: {text}")).collect();
    seen.extend(answers.iter().map(|answer| format!("{answer:?}")));
    seen.extend([format!("{:?}", world.now()), format!("{:?}", world.faults())]);
    seen
}

#[test]
fn a_seed_repeats() {
    let mut once = Vec::new();
    let ran = seeds(0..100, |world, dice| once.push(shout(world, dice)));
    let mut again = Vec::new();
    let _ = seeds(0..100, |world, dice| again.push(shout(world, dice)));
    if ran.seeds() == 100 {
        assert!(ran.faults().iter().any(|(fault, times)| *fault == Fault::LateEdge && *times > 0), "{ran}");
        assert!(once.windows(2).any(|pair| pair[0] != pair[1]), "another seed is another run");
        assert!(once.iter().flatten().any(|seen| seen.contains("message")), "the order of a broadcast is a part of it");
    }
    for (seed, (once, again)) in once.iter().zip(&again).enumerate() {
        let differs = once.iter().zip(again).position(|(once, again)| once != again);
        assert_eq!(differs.map(|at| (&once[at], &again[at])), None, "run {seed}");
        assert_eq!(once.len(), again.len(), "run {seed}");
    }
}

/// Fails if the test below asks for it.
#[test]
fn planted() {
    let asked_for = env::var_os("GAIO_TEST_PLANTED").is_some();
    let ran = seeds(0..50, |world, dice| {
        let roll = dice.roll(10);
        world.note(|| format!("rolled a {roll}"));
        assert!(!asked_for || roll != 7, "a planted fault");
    });
    assert!(!asked_for && ran.to_string().starts_with("50 seeds; faults:\n"), "{ran}");
}

fn in_a_child(command: &mut Command) -> (Output, String) {
    let output = command.env("GAIO_TEST_PLANTED", "1").output().unwrap();
    let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    (output, text)
}

#[test]
fn a_seed_that_fails_prints_the_line_that_repeats_it() {
    let mut all = Command::new(env::current_exe().unwrap());
    all.args(["--exact", "planted"]).env_remove("GAIO_SIM_SEEDS").env_remove("GAIO_SIM_TRACE");
    let (output, text) = in_a_child(&mut all);
    assert!(!output.status.success() && text.contains("a planted fault"), "{text}");
    assert!(!text.contains("rolled a"), "no trace unless asked for: {text}");
    let line = text.lines().find(|line| line.contains("failed; once more, with a trace: ")).expect(&text);
    let (seed, command) = line.split_once(" failed; once more, with a trace: ").unwrap();

    let (output, text) = in_a_child(Command::new("sh").args(["-c", command]));
    assert!(!output.status.success() && text.contains("a planted fault"), "{text}");
    let rolled: Vec<_> = text.lines().filter(|line| line.contains("rolled a")).collect();
    assert!(rolled.len() == 1 && rolled[0].ends_with("rolled a 7"), "that seed alone: {text}");
    assert!(text.lines().any(|line| line.ends_with(&format!("ns  {seed}"))), "the trace says which: {text}");
}
