//! Who talked to whom, over what: from mtlsd's own records of the request before.

use serde_json::Value;

use super::screen::{Screen, Stop};
use super::steps::COUNT;
use super::world::World;

/// Shows both identities, what TLS agreed, and the datapath with why it is not a better one.
pub fn step(screen: &mut Screen, world: &World) -> Result<(), Stop> {
    screen.step(COUNT, "Who talked to whom, and how: neither program knows")?;
    let (argv, client) = record(world, "shop")?;
    let (_, server) = record(world, "api")?;
    screen.command("node", &argv)?;
    let text = |record: &Value, pointer: &str| {
        record.pointer(pointer).and_then(Value::as_str).unwrap_or("(nothing)").to_owned()
    };
    for (side, record) in [("client", &client), ("server", &server)] {
        screen.said(&format!("{side}: {}", text(record, "/local_identity")))?;
        screen.said(&format!(
            "        certificate {}, until {}",
            text(record, "/local_certificate/serial"),
            text(record, "/local_certificate/not_after")
        ))?;
    }
    for (claim, seen, wanted) in [
        ("the server proved to be api to the client", "/peer_identity", "spiffe://example.org/api"),
        ("the two spoke TLS 1.3", "/tls/version", "TLSv1.3"),
    ] {
        screen.check(claim, text(&client, seen) == wanted, wanted, text(&client, seen))?;
    }
    let (wanted, seen) = ("spiffe://example.org/shop", text(&server, "/peer_identity"));
    screen.check("the client proved to be shop to the server", seen == wanted, wanted, seen.clone())?;
    let own = [text(&client, "/local_certificate/serial"), text(&server, "/local_certificate/serial")];
    let shown = [text(&server, "/peer_certificate/serial"), text(&client, "/peer_certificate/serial")];
    let claim = "each end saw the very certificate that the other one used";
    screen.check(claim, own == shown, format!("serials {own:?}"), format!("{shown:?}"))?;

    let id = text(&client, "/id");
    let (argv, sentences) = world.ask("mtlsd can explain the connection", &["explain", &id], |answer| {
        sentences(answer).filter(|all| all.len() > 2)
    })?;
    screen.command("node", &argv)?;
    screen.said(&sentences.join("\n"))?;
    let datapath = text(&client, "/datapath");
    let why = text(&client, "/why_not_better");
    // Nothing is better than what uses the kernel's TLS, as long as there is no `direct`.
    let is_best = ["relay-ktls", "direct"].contains(&datapath.as_str());
    let explained = client["datapath"].is_string() && (is_best || client["why_not_better"].is_string());
    let claim = match is_best {
        true => format!("the datapath is {datapath}, the best that this mtlsd has"),
        false => format!("the datapath is {datapath}, and it is said why it is not a better one"),
    };
    screen.check(&claim, explained, "a datapath, and why not a better one", format!("{datapath}: {why}"))
}

/// The record of a workload's last connection, once that has ended, and the command that gave it.
fn record(world: &World, workload: &str) -> Result<(Vec<String>, Value), Stop> {
    let args = ["connections", "--workload", workload, "--limit", "1"];
    world.ask(&format!("mtlsd has recorded {workload}'s connection"), &args, |answer| {
        answer.get(0).filter(|record| record["event"] == "closed").cloned()
    })
}

/// The sentences of `mtlsd explain` as it prints them without `--json`, less its table of checks.
pub fn sentences(answer: &Value) -> Option<Vec<String>> {
    let sentences = answer.get("sentences")?.as_array()?.iter().filter_map(Value::as_str);
    Some(sentences.filter(|s| !s.starts_with("Checked in order")).map(str::to_owned).collect())
}
