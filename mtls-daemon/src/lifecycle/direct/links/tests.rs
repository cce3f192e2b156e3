use super::*;
use crate::identity::ChainMarks;
use crate::identity::verified::Fingerprint;
use crate::lease::Parties;

/// Notes why it was ended.
#[derive(Clone)]
struct Fake(Arc<Mutex<Vec<LinkEnd>>>, Arc<PeerIdentity>);

impl Fake {
    fn new() -> Self {
        let marks = ChainMarks::of(Fingerprint::of(1, &[]), None, [], false).unwrap();
        Self(Arc::default(), Parties::of_peer("web", Some(Arc::new(marks))).peer.unwrap())
    }

    fn ended(&self) -> Vec<LinkEnd> {
        lock(&self.0).clone()
    }
}

impl Handle for Fake {
    fn end(&self, why: LinkEnd) {
        lock(&self.0).push(why);
    }

    fn peer(&self) -> Peer {
        Peer { identity: Arc::clone(&self.1), name: self.1.name.to_string().into(), tls: None }
    }
}

fn pair() -> PairKey {
    (7, "10.0.0.3:80".parse().unwrap())
}

#[test]
fn a_session_that_was_replaced_ends_with_its_last_connection() {
    let links = Links::default();
    let (old, new) = (Fake::new(), Fake::new());
    let first = links.made(old.clone(), pair());
    links.enter(first);
    links.enter(first);
    let second = links.made(new.clone(), pair());
    assert_eq!(links.of(pair()).unwrap().0, second, "new connections go by the new one");
    links.leave(first);
    assert!(old.ended().is_empty() && links.peer(first).is_some(), "one connection is left");
    links.leave(first);
    assert_eq!(old.ended(), [LinkEnd::Unused]);
    links.enter(second);
    links.leave(second);
    assert!(new.ended().is_empty(), "the pair's own stays without connections");
}

#[test]
fn one_without_connections_ends_when_it_is_replaced() {
    let links = Links::default();
    let old = Fake::new();
    links.made(old.clone(), pair());
    links.made(Fake::new(), pair());
    assert_eq!(old.ended(), [LinkEnd::Unused]);
}

#[test]
fn only_the_loss_of_the_pairs_own_takes_its_connections_away() {
    let links = Links::default();
    let first = links.made(Fake::new(), pair());
    let second = links.made(Fake::new(), pair());
    assert_eq!(links.lost(first), Lost { pair: None, forgotten: true });
    assert_eq!(links.of(pair()).unwrap().0, second);
    assert_eq!(links.lost(second), Lost { pair: Some(pair()), forgotten: true });
    assert!(links.of(pair()).is_none() && links.peer(second).is_none());
    assert_eq!(links.lost(second), Lost::default(), "a second time is no loss");
}

#[test]
fn numbers_are_not_those_of_a_daemon_before() {
    let before = Links::default().made(Fake::new(), pair());
    std::thread::sleep(std::time::Duration::from_micros(10));
    assert!(Links::default().made(Fake::new(), pair()) > before);
}

#[test]
fn what_is_not_known_is_left_alone() {
    let links = Links::<Fake>::default();
    links.enter(LinkId(1));
    links.leave(LinkId(1));
    links.end(LinkId(1), LinkEnd::LeaseEnded);
    let kept = Fake::new();
    let known = links.made(kept.clone(), pair());
    links.end(known, LinkEnd::LeaseEnded);
    assert_eq!(kept.ended(), [LinkEnd::LeaseEnded]);
}

#[test]
fn what_is_noted_of_a_session_is_needed_until_its_last_connection_is_over() {
    let links = Links::default();
    let id = links.made(Fake::new(), pair());
    assert!(links.to_note(id).is_some() && links.to_note(id).is_none(), "once");
    links.enter(id);
    links.enter(id);
    assert_eq!(links.lost(id), Lost { pair: Some(pair()), forgotten: false });
    assert!(links.peer(id).is_none() && links.count() == 0, "nothing new is made on it");
    assert!(!links.leave(id));
    assert!(links.leave(id), "the last one");
    assert!(!links.leave(id));
}
