//! Three clients that are refused, and `mtlsd explain` on each.

use std::path::Path;

use serde_json::Value;

use super::identities::sentences;
use super::judge::{ANSWER, PORT};
use super::screen::{Screen, Stop};
use super::steps::COUNT;
use super::world::{Ran, World, errors, show};

/// A workload with an identity that no rule allows.
pub fn unauthorised(screen: &mut Screen, world: &mut World) -> Result<(), Stop> {
    screen.step(COUNT, "Refused: an unauthorised client")?;
    screen.say("guest has an identity, but no rule allows it to call api:")?;
    let ran = world.curl("guest");
    show(screen, &ran)?;
    let said = errors(&ran);
    let clean = ran.output.code == Some(7) && (said.contains("denied") || said.contains("not permitted"));
    let expected = "curl's code 7 (cannot connect) with \"Permission denied\"";
    screen.check("its connect() fails at once, with a clean errno", clean, expected, &ran.output)?;
    refused(screen, world, &ran, "guest", "policy_default")
}

/// A client that mtlsd does not know and that speaks plain HTTP.
pub fn plaintext(screen: &mut Screen, world: &mut World) -> Result<(), Stop> {
    screen.step(COUNT, "Refused: a plaintext client")?;
    screen.say("outside is not enrolled, so its curl sends plain HTTP:")?;
    let ran = world.curl("outside");
    show(screen, &ran)?;
    refused(screen, world, &ran, "api", "plaintext")
}

/// A client that claims an allowed name, with a certificate of a CA of its own.
pub fn another_ca(screen: &mut Screen, world: &mut World) -> Result<(), Stop> {
    screen.step(COUNT, "Refused: a client with the right name from the wrong CA")?;
    screen.say("Somebody makes a CA of his own and issues himself shop's name:")?;
    let forged = world.lab.dir().join("forged");
    let (ca, own) = (forged.join("ca").display().to_string(), forged.join("id").display().to_string());
    let name = "spiffe://example.org/shop";
    for args in [
        &["ca", "init", "--directory", &ca, "--trust-domain", "example.org"][..],
        &["ca", "issue", "--directory", &ca, "--spiffe-id", name, "--out", &own],
    ] {
        let ran = world.tool(args);
        show(screen, &ran)?;
        if ran.output.code != Some(0) {
            return Err(Stop::failed("mtlsd makes a CA", "exit code 0", &ran.output));
        }
    }
    let ran = with_certificate(world, Path::new(&own).join("tls.crt"), Path::new(&own).join("tls.key"));
    show(screen, &ran)?;
    refused(screen, world, &ran, "api", "unknown_issuer")?;

    screen.say("The same command with a certificate of the right CA: a strict port is ordinary TLS 1.3.")?;
    let (certificate, key) = world.daemon.issue(name, "shop-elsewhere");
    let ran = with_certificate(world, certificate, key);
    show(screen, &ran)?;
    let right = ran.output.code == Some(0) && ran.output.text() == ANSWER;
    screen.check("it is let in: it was the CA, and nothing else", right, ANSWER, &ran.output)
}

/// curl over TLS from outside, verifying nginx's workload by the real root.
fn with_certificate(world: &World, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Ran {
    let resolve = format!("api:{PORT}:{}", world.lab.pod("api").v4);
    let (root, url) = (world.daemon.root_certificate(), format!("https://api:{PORT}/"));
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let (certificate, key) = (path(certificate.as_ref()), path(key.as_ref()));
    let options =
        ["--cert", &certificate, "--key", &key, "--cacert", &path(&root), "--resolve", &resolve, &url];
    world.ask_nginx("outside", &options)
}

/// Checks that nginx answered nothing and that mtlsd gives the reason, the mend and what it knows of both ends.
fn refused(
    screen: &mut Screen,
    world: &mut World,
    ran: &Ran,
    workload: &str,
    reason: &str,
) -> Result<(), Stop> {
    let failed = ran.output.code.is_some_and(|code| code != 0) && !ran.output.text().contains(ANSWER);
    screen.check("curl fails, and nginx answers nothing", failed, "an error of curl", &ran.output)?;
    let (argv, answer) = world.next_refusal()?;
    screen.command("node", &argv)?;
    let said = sentences(&answer).unwrap_or_default();
    screen.said(&said.join("\n"))?;
    let text =
        |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).unwrap_or("(nothing)").to_owned();
    let seen = [text("/connection/workload"), text("/connection/event"), text("/connection/reason/code")];
    let wanted = [workload, "refused", reason];
    screen.check(
        &format!("mtlsd says why ({}) and what to do", seen[2]),
        seen == wanted && said.last().is_some_and(|mend| mend.starts_with("What to do")),
        format!("{wanted:?}, ending with what to do"),
        format!("{seen:?}: {}", said.join("\n")),
    )
}
