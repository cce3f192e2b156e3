//! What is shown, in order. Each step checks what it claims.

use super::judge::{self, ANSWER};
use super::records;
use super::screen::{Screen, Stop};
use super::world::{Ran, World, errors, show};
use super::{identities, refusals};
use crate::wire::Traffic;

/// How many steps there are.
pub const COUNT: usize = 10;

const PICTURE: &str = "\
+- network namespace shop -+                     +- network namespace api --+
|                          |  mutual TLS 1.3     |                          |
|  curl ----> mtlsd  ======|=====================|======> mtlsd ----> nginx |
|       plain              |  tcpdump looks here |              plain       |
+--------------------------+                     +--------------------------+";

/// Shows everything.
pub fn all(screen: &mut Screen, world: &mut World) -> Result<(), Stop> {
    introduction(screen)?;
    let plain = without(screen, world)?;
    start(screen, world)?;
    with(screen, world, &plain)?;
    identities::step(screen, world)?;
    refusals::unauthorised(screen, world)?;
    refusals::plaintext(screen, world)?;
    refusals::another_ca(screen, world)?;
    killed(screen, world)?;
    uninstalled(screen, world)
}

fn introduction(screen: &mut Screen) -> Result<(), Stop> {
    screen.step(COUNT, "What you are about to see")?;
    screen.say(
        "Plain curl and plain nginx run in two network namespaces. Neither is changed or configured for TLS. One \
         daemon, mtlsd, runs on the node; its eBPF programs catch connections when they are made. Two more clients \
         will be refused: guest, a workload with an identity, and outside, which mtlsd does not know.",
    )?;
    screen.verbatim(PICTURE)
}

/// What the same request looks like without mtlsd: its first bytes.
fn without(screen: &mut Screen, world: &World) -> Result<Vec<u8>, Stop> {
    screen.step(COUNT, "Without mtlsd: curl asks nginx, and tcpdump listens between them")?;
    let (ran, traffic) = world.captured(|| world.curl("shop"));
    show(screen, &ran)?;
    answered(screen, &ran)?;
    let request = readable(screen, &traffic)?;
    Ok(request)
}

fn start(screen: &mut Screen, world: &mut World) -> Result<(), Stop> {
    screen.step(COUNT, "mtlsd starts")?;
    screen.say(
        "Its whole configuration; it has a certificate authority of its own and issues the rest itself:",
    )?;
    let config = world.daemon.config();
    let text = std::fs::read_to_string(&config)
        .map_err(|e| Stop::failed("the configuration can be read", config.display(), e))?;
    screen.verbatim(&text)?;
    world.daemon.start();
    let enrolled = |answer: &serde_json::Value| {
        let list = answer.as_array()?;
        let good =
            |w: &&serde_json::Value| w["state"] == "enrolled" && w["certificate"]["serial"].is_string();
        (list.iter().filter(good).count() == 3).then(|| list.clone())
    };
    let claim = "three workloads are enrolled, each with a certificate of its own";
    let (argv, workloads) = world.ask(claim, &["workloads"], enrolled)?;
    screen.say("(Left out below: --socket; where a command answers in JSON, the essence is shown.)")?;
    screen.command("node", &argv)?;
    for workload in &workloads {
        let text =
            |pointer: &str| workload.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or("?");
        screen.said(&format!(
            "{:<6} {}, {}: {} (certificate until {})",
            text("/name"),
            text("/state"),
            text("/mode"),
            text("/spiffe_id"),
            text("/certificate/not_after")
        ))?;
    }
    let modes: Vec<_> = workloads.iter().filter_map(|w| w["mode"].as_str()).collect();
    screen.check(claim, modes == ["strict"; 3], "three workloads in mode strict", format!("{modes:?}"))
}

fn with(screen: &mut Screen, world: &World, plain: &[u8]) -> Result<(), Stop> {
    screen.step(COUNT, "With mtlsd: the same request")?;
    let (ran, traffic) = world.captured(|| world.curl("shop"));
    show(screen, &ran)?;
    answered(screen, &ran)?;
    screen.say("The first bytes that tcpdump saw, before and now:")?;
    let claim = "every byte on the wire is TLS 1.3; the secret and the answer are nowhere to be read";
    let sealed = judge::sealed(&traffic).map_err(|seen| Stop::failed(claim, "only TLS 1.3 records", seen))?;
    let columns = |what: &str, bytes: &[u8], meaning: &str| {
        format!("{what:<14} {:<47}  {meaning}\n", records::hex(bytes))
    };
    let plain = columns("without mtlsd", plain, &format!("\"{}\"", records::text(plain)));
    let first = columns("with mtlsd", sealed.first.bytes, &meaning(sealed.first.kind));
    let data = columns("", sealed.data.bytes, &meaning(sealed.data.kind));
    screen.verbatim(&format!("{plain}{first}{data}"))?;
    screen.say(&format!("{}.", sealed.summary))?;
    screen.check(claim, true, "", "")
}

fn meaning(kind: u8) -> String {
    format!("TLS 1.3 record: {}", records::kind_name(kind))
}

fn killed(screen: &mut Screen, world: &mut World) -> Result<(), Stop> {
    screen.step(COUNT, "Nothing leaks while the daemon is dead")?;
    let pid = world.daemon.process().pid();
    screen.say(&format!(
        "mtlsd (process {pid}) is killed with SIGKILL. What it attached to the kernel stays:"
    ))?;
    world.daemon.kill9();
    let (runs, traffic) = world.captured(|| ["shop", "outside"].map(|pod| world.curl(pod)));
    for ran in &runs {
        show(screen, ran)?;
        screen.check(
            &format!("{}'s request fails", ran.place),
            ran.output.code.is_some_and(|code| code != 0) && !ran.output.text().contains(ANSWER),
            "curl fails and nginx answers nothing",
            &ran.output,
        )?;
    }
    let claim = "not one byte of payload was on the wire";
    let packets = judge::silent(&traffic).map_err(|seen| Stop::failed(claim, "no payload", seen))?;
    screen.check(&format!("{claim} ({packets} packets captured)"), true, "", "")?;

    screen.say("mtlsd starts again and takes over what is attached:")?;
    world.daemon.start();
    let (ran, traffic) = world.captured(|| world.curl("shop"));
    show(screen, &ran)?;
    answered(screen, &ran)?;
    let sealed = judge::sealed(&traffic);
    let seen = sealed.as_ref().err().cloned().unwrap_or_default();
    screen.check("and the wire carries only TLS 1.3 again", sealed.is_ok(), "only TLS 1.3 records", seen)?;
    let mut verify = world.ask_in_words(&["verify"]);
    let said = verify.output.text();
    let last = said.lines().last().unwrap_or_default().as_bytes().to_vec();
    verify.output.stdout = last;
    show(screen, &verify)?;
    screen.check("everything that should be captured is", verify.output.code == Some(0), "exit code 0", said)
}

fn uninstalled(screen: &mut Screen, world: &mut World) -> Result<(), Stop> {
    screen.step(COUNT, "mtlsd is removed")?;
    world.daemon.stop();
    let config = world.daemon.config();
    let ran = world.tool(&["uninstall", "--config", &config.to_string_lossy()]);
    show(screen, &ran)?;
    screen.check("mtlsd uninstall succeeds", ran.output.code == Some(0), "exit code 0", &ran.output)?;
    let pins: Vec<_> = std::fs::read_dir(world.daemon.bpffs())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let claim = "no eBPF program, link or map of it is left";
    screen.check(claim, pins.is_empty(), "an empty bpffs directory", pins.join(", "))?;
    let (ran, traffic) = world.captured(|| world.curl("shop"));
    show(screen, &ran)?;
    answered(screen, &ran)?;
    readable(screen, &traffic).map(drop)
}

/// Checks that nginx's answer arrived.
fn answered(screen: &mut Screen, ran: &Ran) -> Result<(), Stop> {
    let right = ran.output.code == Some(0) && ran.output.text() == ANSWER;
    let seen = format!("{:?}, exit code {:?}\n{}", ran.output.text(), ran.output.code, errors(ran));
    screen.check("nginx's answer arrives", right, format!("{ANSWER:?}, exit code Some(0)"), seen)
}

/// Shows a request that went in the clear.
fn readable(screen: &mut Screen, traffic: &Traffic) -> Result<Vec<u8>, Stop> {
    let claim = "anyone on the way reads the request, the secret in it and the answer";
    let request =
        judge::readable(traffic).map_err(|seen| Stop::failed(claim, "the request in clear", seen))?;
    screen.say("What tcpdump saw of the request, in hexadecimal and as text:")?;
    screen.verbatim(&format!("{}  \"{}\"", records::hex(request), records::text(request)))?;
    let secret = String::from_utf8_lossy(request);
    let secret = secret.lines().find(|line| line.contains(judge::SECRET)).unwrap_or_default().to_owned();
    screen.verbatim(&format!("... {secret}"))?;
    screen.check(claim, true, "", "")?;
    Ok(request.to_vec())
}
