//! What is known, what is asked, and what becomes of answers.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::book::{IDLE, MAX_LEAVES};
use super::leaf::MAX_STAPLE;
use super::testing::{Says, good, revoked};
use super::*;
use crate::identity::ChainMarks;
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};
use crate::identity::verified::Fingerprint;
use crate::observe::Reason;

const SECOND: Duration = Duration::from_secs(1);
const URL: &str = "http://ocsp.example/";

fn marks(leaf: &TestLeaf, ca: &TestCa) -> ChainMarks {
    let id = "spiffe://example.org/web".parse().unwrap();
    let path = leaf.chain.iter().chain([&ca.der]);
    ChainMarks::of(Fingerprint::of(1, &leaf.chain), Some(id), path, true).unwrap()
}

fn rules(required: bool) -> Rules {
    let responder = Responder { url: Some(URL.to_owned()), ca_file: None, refresh: HOUR };
    let responders = [("example.org".parse().unwrap(), responder)].into();
    Rules { responders, own: Some("example.org".parse().unwrap()), required }
}

fn ocsp(required: bool) -> Ocsp {
    let ocsp = Ocsp::default();
    assert!(ocsp.set_rules(rules(required)));
    ocsp
}

fn said(ocsp: &Ocsp, chain: &ChainMarks, now: SystemTime) -> Option<(Reason, String)> {
    ocsp.refusal_of(chain, now).map(|refusal| (refusal.reason, refusal.detail))
}

fn reason(ocsp: &Ocsp, chain: &ChainMarks) -> Option<Reason> {
    said(ocsp, chain, SystemTime::now()).map(|(reason, _)| reason)
}

/// The only question that is due.
#[track_caller]
fn one(ocsp: &Ocsp, now: Instant) -> Ask {
    let mut asks = ocsp.due(now);
    assert_eq!(asks.len(), 1, "{asks:?}");
    asks.remove(0)
}

/// Long after every pause.
fn later() -> Instant {
    Instant::now() + 24 * HOUR
}

#[test]
fn without_rules_nobody_is_asked_and_another_trust_domain_is_nobodys_business() {
    let ca = TestCa::root("root");
    let chain = marks(&ca.leaf(&LeafSpec::default()), &ca);
    let off = Ocsp::default();
    assert_eq!(reason(&off, &chain), None);
    assert!(off.due(later()).is_empty() && off.health(SystemTime::now()).is_empty());
    let on = ocsp(true);
    let foreign = ChainMarks { id: Some("spiffe://b/x".parse().unwrap()), ..chain.clone() };
    assert_eq!(reason(&on, &foreign), None);
    assert!(on.due(later()).is_empty());
    // A peer without a SPIFFE ID is of the node's own.
    assert_eq!(reason(&on, &ChainMarks { id: None, ..chain.clone() }), Some(Reason::RevocationUnknown));
    // A leaf whose issuer is not known cannot be asked about; an own one is for its peers to judge.
    let orphan = ChainMarks { question: None, ..chain.clone() };
    assert_eq!(reason(&on, &orphan), Some(Reason::RevocationUnknown));
    assert_eq!(reason(&on, &ChainMarks { rooted: false, ..orphan }), None);
    assert_eq!(reason(&on, &ChainMarks { rooted: false, ..chain }), None);
}

#[test]
fn a_leaf_is_asked_about_once_and_its_answer_decides_by_policy() {
    let (ca, now) = (TestCa::root("root"), SystemTime::now());
    let leaf = ca.leaf(&LeafSpec::default());
    let chain = marks(&leaf, &ca);
    let unknown = Says { status: Status::Unknown, ..good() };
    for required in [false, true] {
        let refused = |reason| required.then_some(reason);
        for (says, decision) in [
            (good(), None),
            (unknown.clone(), refused(Reason::RevocationUnknown)),
            (revoked(), Some(Reason::Revoked)),
        ] {
            let ocsp = ocsp(required);
            let before = said(&ocsp, &chain, now);
            assert_eq!(before.is_some(), required);
            if let Some((reason, detail)) = before {
                assert_eq!(reason, Reason::RevocationUnknown);
                assert!(detail.contains(URL) && detail.contains("a retry succeeds"), "{detail}");
            }
            assert_eq!(reason(&ocsp, &chain), refused(Reason::RevocationUnknown));
            let ask = one(&ocsp, Instant::now());
            assert_eq!(ask.url, URL);
            assert!(ocsp.due(later()).is_empty(), "one question at a time about a leaf");
            ocsp.answered(&ask, Ok(says.about(&leaf.chain[0], &ca)), now);
            assert_eq!(reason(&ocsp, &chain), decision);
            assert!(ocsp.due(Instant::now()).is_empty(), "it is known now");
            let (health, stale) = (ocsp.health(now), usize::from(says.status == Status::Unknown));
            assert_eq!((health[0].answered, health[0].failed, health[0].stale), (1, 0, stale));
            assert_eq!(ocsp.take_revoked().len(), usize::from(decision == Some(Reason::Revoked)));
            // Long after nextUpdate: what was revoked stays so.
            let expired = said(&ocsp, &chain, now + 2 * HOUR);
            match says.status {
                Status::Revoked(_) => assert!(expired.unwrap().1.contains("was revoked at")),
                _ if required => assert!(expired.unwrap().1.contains("expired")),
                _ => assert_eq!(expired, None),
            }
            assert_eq!(ocsp.due(later()).len(), 1, "it is asked again in time");
        }
    }
}

#[test]
fn an_answer_is_asked_for_again_after_half_of_its_life_or_as_configured() {
    let ca = TestCa::root("root");
    let leaf = ca.leaf(&LeafSpec::default());
    let chain = marks(&leaf, &ca);
    for (hours, after) in [(1, HOUR / 2), (10, HOUR)] {
        let ocsp = ocsp(false);
        reason(&ocsp, &chain);
        let (ask, now) = (one(&ocsp, Instant::now()), SystemTime::now());
        let says = Says::new(Status::Good, now, now + hours * HOUR);
        ocsp.answered(&ask, Ok(says.about(&leaf.chain[0], &ca)), now);
        let due = ocsp.next_due().unwrap();
        let wait = due.duration_since(Instant::now());
        assert!(wait <= after && wait > after - 60 * SECOND, "{wait:?}");
        assert!(ocsp.due(due - SECOND).is_empty());
        assert_eq!(ocsp.due(due).len(), 1);
    }
}

#[test]
fn what_is_no_answer_is_refused_and_the_last_good_one_stays() {
    let (ca, other, now) = (TestCa::root("root"), TestCa::root("root"), SystemTime::now());
    let (leaf, neighbour) = (ca.leaf(&LeafSpec::default()), ca.leaf(&LeafSpec::default()));
    let chain = marks(&leaf, &ca);
    let ocsp = ocsp(true);
    reason(&ocsp, &chain);
    ocsp.answered(&one(&ocsp, Instant::now()), Ok(good().about(&leaf.chain[0], &ca)), now);
    let about = |says: Says| says.about(&leaf.chain[0], &ca);
    let bytes = |ask: &Ask, outcome| {
        ocsp.answered(ask, outcome, now);
        assert_eq!(reason(&ocsp, &chain), None, "the last good one stays");
        // Once it has run out, the refusal says why there is no newer one.
        said(&ocsp, &chain, now + 2 * HOUR).unwrap().1
    };
    let critical = x509_cert::ext::Extension {
        extn_id: x509_cert::der::asn1::ObjectIdentifier::new_unwrap("1.2.3.4"),
        critical: true,
        extn_value: x509_cert::der::asn1::OctetString::new(vec![5, 0]).unwrap(),
    };
    let mut altered = about(good());
    *altered.last_mut().unwrap() ^= 1;
    for (outcome, part) in [
        (Ok(b"<html>".to_vec()), "OCSPResponse of the OCSP response cannot be parsed"),
        (Ok(vec![0x30, 3, 0x0a, 1, 3]), "responseStatus: the OCSP responder says tryLater"),
        (Ok(vec![0x30, 3, 0x0a, 1, 6]), "says unauthorized"),
        (Ok(altered), "signature: "),
        (Ok(good().about(&leaf.chain[0], &other)), "signature: "),
        (Ok(revoked().about(&neighbour.chain[0], &ca)), "certID: "),
        (
            Ok(about(Says::new(Status::Good, now + HOUR, now + 2 * HOUR))),
            "thisUpdate: the OCSP response is not yet valid",
        ),
        (Ok(about(Says::new(Status::Good, now - 2 * HOUR, now - HOUR))), "nextUpdate: "),
        (Ok(about(Says::new(Status::Good, now - HOUR, now + HOUR))), "is older than the one in force"),
        (
            Ok(about(Says { extensions: Some(vec![critical]), ..good() })),
            "singleExtensions of the OCSP response",
        ),
        (Ok(vec![0; MAX_RESPONSE + 1]), "at most 65536 are read"),
        (Err(Failed::Responder("it answered with HTTP status 503".to_owned())), "HTTP status 503"),
        (Err(Failed::Question("x".to_owned())), "x"),
    ] {
        let detail = bytes(&one(&ocsp, later()), outcome);
        assert!(detail.contains(part) && detail.contains(URL), "{part}: {detail}");
    }
    assert_eq!((ocsp.health(now)[0].answered, ocsp.health(now)[0].failed), (1, 13));
    ocsp.answered(&one(&ocsp, later()), Ok(about(revoked())), now);
    assert_eq!(reason(&ocsp, &chain), Some(Reason::Revoked), "a good one is taken again");
}

#[test]
fn what_was_revoked_is_good_again_only_by_a_newer_answer() {
    let (ca, now) = (TestCa::root("root"), SystemTime::now());
    let leaf = ca.leaf(&LeafSpec::default());
    let chain = marks(&leaf, &ca);
    let ocsp = ocsp(false);
    reason(&ocsp, &chain);
    let at = |status, seconds: u64| {
        let made = now - HOUR + Duration::from_secs(seconds);
        Says::new(status, made, now + HOUR).about(&leaf.chain[0], &ca)
    };
    for (answer, decision) in [
        (at(Status::Revoked(now), 10), Some(Reason::Revoked)),
        (at(Status::Good, 10), Some(Reason::Revoked)),
        (at(Status::Good, 9), Some(Reason::Revoked)),
        (at(Status::Good, 11), None),
    ] {
        ocsp.answered(&one(&ocsp, later()), Ok(answer), now);
        assert_eq!(reason(&ocsp, &chain), decision);
    }
    assert_eq!(ocsp.take_revoked().len(), 1, "its connections are cut once");
}

#[test]
fn questions_are_bounded_for_each_responder_and_in_all() {
    let ca = TestCa::root("root");
    let chain = marks(&ca.leaf(&LeafSpec::default()), &ca);
    let numbered = |domain: &str, number| {
        let question = chain.question.as_ref().unwrap().numbered(number);
        let id = Some(format!("spiffe://{domain}/web").parse().unwrap());
        ChainMarks { id, question: Some(Arc::new(question)), ..chain.clone() }
    };
    let mut rules = rules(false);
    for domain in ["b", "c"] {
        let url = Some(format!("http://{domain}/"));
        rules.responders.insert(domain.parse().unwrap(), Responder { url, ca_file: None, refresh: HOUR });
    }
    let ocsp = Ocsp::default();
    ocsp.set_rules(rules);
    for (at, domain) in ["example.org", "b", "c"].into_iter().enumerate() {
        for number in 0..50 {
            reason(&ocsp, &numbered(domain, 1000 * at + number));
        }
    }
    let now = Instant::now();
    let (first, more): (Vec<_>, Vec<_>) = ocsp.due(now).into_iter().partition(|ask| ask.url == URL);
    assert_eq!((first.len(), more.len()), (MAX_ASKING_ONE, MAX_ASKING - MAX_ASKING_ONE));
    assert!(ocsp.due(now + SECOND / 5).is_empty() && ocsp.next_due().is_none());
    // One responder is down: it is left alone, the others go on.
    for ask in &first {
        ocsp.answered(ask, Err(Failed::Responder("down".to_owned())), SystemTime::now());
    }
    let next = ocsp.due(now + SECOND / 5);
    assert_eq!(next.len(), MAX_ASKING_ONE);
    assert!(next.iter().all(|ask| ask.url == "http://c/"));
    // A failure of one question holds up no other of its responder.
    for ask in more.iter().chain(&next) {
        ocsp.answered(ask, Err(Failed::Question("unauthorized".to_owned())), SystemTime::now());
    }
    let last = ocsp.due(now + SECOND / 2);
    assert_eq!(last.len(), MAX_ASKING);
    assert!(last.iter().all(|ask| ask.url != URL));
    let all = || first.iter().chain(&more).chain(&next).chain(&last);
    let asked: std::collections::HashSet<_> = all().map(|ask| ask.question.key()).collect();
    assert_eq!(asked.len(), all().count(), "nothing is asked twice");
}

#[test]
fn a_responder_that_fails_is_asked_ever_more_rarely() {
    let ca = TestCa::root("root");
    let chain = marks(&ca.leaf(&LeafSpec::default()), &ca);
    let ocsp = ocsp(false);
    reason(&ocsp, &chain);
    let mut waits = Vec::new();
    for _ in 0..11 {
        let before = Instant::now();
        let ask = one(&ocsp, later());
        ocsp.answered(&ask, Err(Failed::Question("no".to_owned())), SystemTime::now());
        waits.push(ocsp.next_due().unwrap().duration_since(before).as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
}

#[test]
fn responders_are_bounded_in_number() {
    let ca = TestCa::root("root");
    let ocsp = Ocsp::default();
    let mut rules = rules(false);
    rules.responders.values_mut().for_each(|responder| responder.url = None);
    ocsp.set_rules(rules);
    // Each leaf names another responder, and each of them is down.
    let mut chains = Vec::new();
    for number in 0..MAX_RESPONDERS + 10 {
        let extensions = vec![access(&format!("http://r{number}.example/"))];
        chains.push(marks(&ca.leaf(&LeafSpec { extensions, ..LeafSpec::default() }), &ca));
    }
    let now = Instant::now();
    let mut asked = 0;
    for chain in &chains {
        reason(&ocsp, chain);
        for ask in ocsp.due(now + SECOND / 2) {
            asked += 1;
            ocsp.answered(&ask, Err(Failed::Responder("down".to_owned())), SystemTime::now());
        }
    }
    assert_eq!(asked, MAX_RESPONDERS);
    // One that names none is refused where an answer is required, and says why.
    let nameless = marks(&ca.leaf(&LeafSpec::default()), &ca);
    ocsp.set_rules(Rules { required: true, ..Rules::clone(&ocsp.rules.load()) });
    assert!(said(&ocsp, &nameless, SystemTime::now()).unwrap().1.contains("authorityInfoAccess"));
    assert!(ocsp.due(Instant::now()).iter().all(|ask| ask.url.contains("example")));
}

/// authorityInfoAccess with an OCSP responder.
fn access(url: &str) -> rcgen::CustomExtension {
    let tlv = |tag: u8, body: &[u8]| [&[tag, u8::try_from(body.len()).unwrap()], body].concat();
    let oid = [0x06, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 1];
    let description = tlv(0x30, &[&oid[..], &tlv(0x86, url.as_bytes())].concat());
    rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], tlv(0x30, &description))
}

#[test]
fn what_is_known_is_bounded_and_what_nobody_uses_is_forgotten() {
    let ca = TestCa::root("root");
    let leaf = ca.leaf(&LeafSpec::default());
    let chain = marks(&leaf, &ca);
    let ocsp = ocsp(false);
    reason(&ocsp, &chain);
    ocsp.answered(&one(&ocsp, Instant::now()), Ok(revoked().about(&leaf.chain[0], &ca)), SystemTime::now());
    let own = marks(&ca.leaf(&LeafSpec::default()), &ca);
    ocsp.keep_own(&[Arc::new(own.clone())]);
    let leaves = || ocsp.lock().leaves.len();
    for number in 0..MAX_LEAVES + 10 {
        let question = chain.question.as_ref().unwrap().numbered(number);
        reason(&ocsp, &ChainMarks { question: Some(Arc::new(question)), ..chain.clone() });
        assert!(leaves() <= MAX_LEAVES);
    }
    assert!(leaves() > MAX_LEAVES / 2, "not all of them");
    let known = |chain: &ChainMarks| ocsp.lock().leaves.contains_key(chain.question.as_ref().unwrap().key());
    assert!(known(&chain) && known(&own), "what is revoked and what is our own stays");
    let waiting = || ocsp.lock().queue.len();
    assert_eq!(waiting(), leaves(), "each waits once");

    ocsp.sweep(Instant::now(), |_| false);
    assert!(leaves() > MAX_LEAVES / 2, "they were used just now");
    let idle = Instant::now() + IDLE + SECOND;
    ocsp.sweep(idle, |question| question.key() == chain.question.as_ref().unwrap().key());
    assert!(leaves() == 1 && known(&chain), "a connection has it still");
    ocsp.sweep(idle + IDLE / 2, |_| false);
    assert!(known(&chain), "it was used at the last look");
    assert!(ocsp.set_rules(Rules::default()) && leaves() == 0 && waiting() == 0);
}

#[test]
fn only_a_good_and_fresh_answer_about_an_own_leaf_is_stapled() {
    let (ca, now) = (TestCa::root("root"), SystemTime::now());
    let leaf = ca.leaf(&LeafSpec::default());
    let chain = Arc::new(marks(&leaf, &ca));
    let der = good().about(&leaf.chain[0], &ca);
    let ocsp = ocsp(false);
    // As a peer's it is known, and not kept.
    reason(&ocsp, &chain);
    ocsp.answered(&one(&ocsp, Instant::now()), Ok(der.clone()), now);
    assert_eq!(ocsp.staple(&chain, now), None);
    ocsp.keep_own(&[Arc::clone(&chain)]);
    ocsp.answered(&one(&ocsp, Instant::now()), Ok(der.clone()), now);
    ocsp.keep_own(&[Arc::clone(&chain)]);
    assert!(ocsp.due(Instant::now()).is_empty(), "it is there");
    assert_eq!(ocsp.staple(&chain, now).as_deref(), Some(&der[..]));
    assert_eq!(ocsp.staple(&chain, now + 2 * HOUR), None, "stale");
    // What somebody on the way has made too large for a handshake counts, and is not stapled.
    let large = Says { certs: vec![ca.der.clone(); 60], ..good() }.about(&leaf.chain[0], &ca);
    assert!(large.len() > MAX_STAPLE && large.len() < MAX_RESPONSE);
    ocsp.answered(&one(&ocsp, later()), Ok(large), now);
    assert_eq!((ocsp.staple(&chain, now), ocsp.health(now)[0].stale), (None, 0));
    ocsp.answered(&one(&ocsp, later()), Ok(der.clone()), now);
    assert_eq!(ocsp.staple(&chain, now).as_deref(), Some(&der[..]));
    ocsp.answered(&one(&ocsp, later()), Ok(b"garbage".to_vec()), now);
    assert_eq!(ocsp.staple(&chain, now).as_deref(), Some(&der[..]), "the last good one stays");
    ocsp.answered(&one(&ocsp, later()), Ok(revoked().about(&leaf.chain[0], &ca)), now);
    assert_eq!(ocsp.staple(&chain, now), None, "nobody staples that");
    let own = ChainMarks { rooted: false, ..ChainMarks::clone(&chain) };
    assert_eq!(reason(&ocsp, &own), Some(Reason::Revoked), "it is not used any more");
}
