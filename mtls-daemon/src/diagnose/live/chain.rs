//! Their chain, question by question, and whether they hold its key.

use std::time::SystemTime;

use super::report::{Evidence, Stopped, Walk};
use super::step::Question;
use super::talk::Broken;
use crate::handshake::{Asked, ExpectedServer, Finding, Found, Trust, Watched, examine_server};
use crate::observe::Reason;

/// The verdict of the handshake decides; the examination says why, one question after the other.
pub(super) fn chain(
    walk: &mut Walk,
    shaken: &Result<(), Broken>,
    watched: &Watched,
    trust: &Trust,
    expected: &ExpectedServer,
) -> Result<(), Stopped> {
    let (verdict, shown) = (&watched.verdict, watched.shown());
    let (chain, staple) = shown.map_or((&[][..], &[][..]), |shown| (&shown.chain, &shown.staple));
    for Finding { asked, found, evidence } in
        examine_server(chain, staple, trust, expected, SystemTime::now())
    {
        let (step, evidence) = (question(asked), Evidence::of(evidence));
        match found {
            Found::Holds(why) => walk.passed(step, why, evidence),
            Found::Open(why) => walk.unknown(step, why, evidence, Reason::UnknownIssuer.mend()),
            Found::Fails(refusal) => return Err(walk.refused(step, &refusal, evidence)),
        }
    }
    if verdict.peer().is_some() {
        walk.passed(
            Question::Key,
            "the handshake is signed with the key of its certificate",
            Evidence::default(),
        );
        return Ok(());
    }
    // What was accepted a moment ago, or was not proven: never a yes.
    let refusal = match (verdict.refusal(), shaken) {
        (Some(refusal), _) => refusal.clone(),
        (None, Err(broken)) => broken.refusal(verdict),
        (None, Ok(())) => Reason::BadSignature.into(),
    };
    Err(walk.refused(Question::Key, &refusal, Evidence::default()))
}

fn question(asked: Asked) -> Question {
    match asked {
        Asked::Presented => Question::TheirCertificate,
        Asked::Usage => Question::KeyUsage,
        Asked::Trusted => Question::TrustedHere,
        Asked::Valid => Question::Validity,
        Asked::NotRevoked => Question::Revocation,
        Asked::Named => Question::Name,
    }
}
