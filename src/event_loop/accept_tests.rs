//! Accepting, by the loop alone: budgets, credit, shortages, ends.

use super::*;

#[test]
fn accepting_has_a_budget_and_a_credit() {
    let mut bed = bed_with(Limits { accepts_per_turn: 2, ..Limits::default() });
    let (socket, addr) = bed.world.listener();
    bed.listening(socket);
    assert_eq!(bed.turn(), []);
    assert!(!bed.is_busy(), "until an edge comes");
    let _peers = [(); 5].map(|()| bed.world.connect(addr).unwrap());
    for expected in [2, 2, 1] {
        assert_eq!(bed.turn(), vec![Seen::Accepted(0); expected]);
        assert_eq!(bed.is_busy(), expected == 2);
    }
    bed.face().credit = 1;
    let _others = [(); 2].map(|()| bed.world.connect(addr).unwrap());
    assert_eq!(bed.turn(), [Seen::Accepted(0)]);
    assert!(!bed.is_busy(), "it would spin");
    assert_eq!(bed.sleep(Some(MILLISECOND)), MILLISECOND);
    bed.face().credit = 5;
    assert!(bed.is_busy());
    assert_eq!(bed.turn(), [Seen::Accepted(0)]);
    assert_eq!(bed.core().counters().accepted.load(crate::sync::Ordering::Relaxed), 7);
}

#[test]
fn a_listeners_place_is_used_again_and_its_token_leads_there() {
    let mut bed = bed();
    let listeners: Vec<_> = (0..3).map(|_| bed.world.listener()).collect();
    let addrs: Vec<_> = listeners.iter().map(|(_, addr)| *addr).collect();
    for (socket, _) in listeners {
        bed.listening(socket);
    }
    assert_eq!(bed.turn(), []);
    assert!(bed.core().remove_listener(1).is_some());
    assert!(bed.core().remove_listener(1).is_none() && bed.core().remove_listener(3).is_none());
    assert!(bed.world.connect(addrs[1]).is_err());
    let (socket, fourth) = bed.world.listener();
    bed.listening(socket);
    assert_eq!((bed.core().listeners.len(), bed.turn()), (3, vec![]));
    let _peers = [fourth, addrs[2], addrs[0], fourth].map(|addr| bed.world.connect(addr).unwrap());
    assert_eq!(bed.turn(), [0, 1, 1, 2].map(Seen::Accepted));
    // No listener at all: it is at its end.
    let (socket, _peer) = bed.world.pair();
    bed.listening(socket);
    assert_eq!(bed.turn(), [Seen::Dead(3)]);
    assert!(!bed.is_busy());
}

#[test]
fn a_shortage_sheds_one_and_pauses() {
    let mut bed = bed();
    let (socket, addr) = bed.world.listener();
    bed.listening(socket);
    assert_eq!(bed.turn(), []);
    let open = bed.world.open_descriptors();
    bed.world.configure(|config| config.descriptors = open);
    let _peers = [(); 3].map(|()| bed.world.connect(addr).unwrap());
    assert_eq!(bed.turn(), []);
    assert_eq!(bed.world.open_descriptors(), open);
    bed.world.configure(|config| config.descriptors = usize::MAX);
    let _peer = bed.world.connect(addr).unwrap();
    assert_eq!(bed.turn(), [], "an edge does not end the pause");
    assert!(!bed.is_busy());
    let over = bed.sleep(None);
    assert!((20 * MILLISECOND..20 * MILLISECOND + TICK).contains(&over), "{over}");
    bed.pass();
    assert!(bed.is_busy());
    assert_eq!(bed.turn(), [Seen::Accepted(0); 3]);
    let snapshot = bed.core().counters().snapshot(0);
    assert_eq!((snapshot.shed, snapshot.accept_errors, snapshot.accepted), (1, 0, 3));
}

#[test]
fn an_error_that_stays_is_met_with_patience_then_with_a_pause() {
    let mut bed = bed();
    let (socket, addr) = bed.world.listener();
    bed.listening(socket);
    assert_eq!(bed.turn(), []);
    bed.world.configure(|config| config.faults = Faults::seeded(1).with(Fault::Aborted, 1024));
    let _peers = [(); 20].map(|()| bed.world.connect(addr).unwrap());
    assert_eq!(bed.turn(), []);
    assert_eq!(bed.core().counters().snapshot(0).accept_errors, 17);
    assert!(!bed.is_busy(), "a pause");
    bed.world.configure(|config| config.faults.calm());
    bed.sleep(None);
    bed.pass();
    assert_eq!(bed.turn(), [Seen::Accepted(0); 3], "those that are left");
    // A success in between: nothing adds up.
    for _ in 0..2 {
        bed.world.configure(|config| config.faults = Faults::seeded(1).with(Fault::Aborted, 1024));
        let _peers = [(); 16].map(|()| bed.world.connect(addr).unwrap());
        assert_eq!(bed.turn(), []);
        bed.world.configure(|config| config.faults.calm());
        let _peer = bed.world.connect(addr).unwrap();
        assert_eq!(bed.turn(), [Seen::Accepted(0)]);
    }
}
