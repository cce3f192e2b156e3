//! `direct` under an adversary that schedules badly: random connections, whose programs and daemons are stopped, pinned, made
//! idle and interrupted at random moments. No plaintext on the wire, no ciphertext in an application, no byte lost, nobody stuck.
//!
//! `MTLSD_SEED` repeats a run as far as the machine allows; `MTLSD_STRESS` is the number of connections. Needs kernel TLS and
//! tracing programs: a virtual machine (`cargo xtask test --only integration --kernel 6.12=direct_stress`).

use std::time::Duration;

use mtls_tests::direct::{World, records, require_direct, wait_empty};
use mtls_tests::hold::why_not_direct;
use mtls_tests::lab::{Pod, Process};
use mtls_tests::stress::adversary::{self, Victims};
use mtls_tests::stress::{count, seed, steps, verdict};
use mtls_tests::{could_not_run, slow};

/// Where the server listens.
const PORT: u16 = 7000;
/// Client processes, and connections that each makes at the same time.
const PAIRS: u16 = 2;
const AT_ONCE: u16 = 3;

/// No connection may take longer. An accept() that is not heard of is given up after 30 s.
fn limit() -> Duration {
    slow::limit(60)
}

fn server(pod: &Pod, seed: u64) -> Process {
    let arguments = [pod.at(PORT).to_string(), seed.to_string(), limit().as_millis().to_string()];
    let mut server = pod.own("stress").arg("server").args(arguments).spawn();
    server.wait_for("ready");
    server
}

fn client(world: &World, seed: u64, first: u16, count: u16) -> Process {
    let at = world.far().at(PORT).to_string();
    let numbers = [seed, first.into(), count.into(), AT_ONCE.into()].map(|number: u64| number.to_string());
    let limit = limit().as_millis().to_string();
    let mut client = world.web().own("stress").arg("client").arg(at).args(numbers).arg(limit).spawn();
    client.wait_for("ready");
    client
}

/// A world in which the port of the stress has a session. Nothing goes by a relay: there the server sees another port than the
/// client has, by which both know what to do.
#[track_caller]
fn world() -> World {
    let mut world = World::prepare(&[PORT], "", "");
    require_direct(&world.here);
    world.start();
    // Ends with these applications: the port is the other ones' then.
    let _ = world.applications(world.far().at(PORT));
    world
}

/// Who is in the way meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Torment {
    Nobody,
    /// Somebody who schedules programs and daemons badly, at random.
    Adversary,
    /// Somebody who stops the daemons behind their steps.
    Steps,
}

/// Runs the connections.
#[track_caller]
fn stress(torment: Torment) {
    // Stopped that often, a daemon needs several times as long.
    let share = if torment == Torment::Steps { 3 } else { 1 };
    let (seed, count) = (seed(), count() / share / PAIRS * PAIRS);
    println!("MTLSD_SEED={seed} MTLSD_STRESS={count}");
    let mut world = world();
    let capture = world.lab.capture();
    let server = server(world.far(), seed);
    let each = count / PAIRS;
    let mut clients: Vec<_> = (0..PAIRS).map(|pair| client(&world, seed, pair * each, each)).collect();
    let applications = clients.iter().chain([&server]).map(Process::pid).collect();
    let daemons = vec![world.here.process().pid(), world.there.process().pid()];
    let adversary = (torment == Torment::Adversary)
        .then(|| adversary::begin(Victims { applications, daemons: daemons.clone() }, seed));
    let steps = (torment == Torment::Steps).then(|| steps::begin(&daemons, world.lab.dir(), seed));
    for client in &mut clients {
        // Each connection has its limit; all together they must come to an end too.
        client.wait_long_for("done", slow::limit(60) * u32::from(each));
    }
    let deeds = adversary.map(|adversary| adversary.end());
    let stops = steps.map(|steps| steps.end().into_iter().sum::<usize>());
    for daemon in [&world.here, &world.there] {
        wait_empty(&world.lab, daemon, "DIRECT_SOCKETS");
        wait_empty(&world.lab, daemon, "EXPECTED");
    }
    let printed = |process: &Process| String::from_utf8_lossy(&process.stdout()).into_owned();
    let said = verdict::read(&clients.iter().map(printed).collect::<String>());
    // The server's line may come a little after the client's.
    mtls_tests::lab::within(slow::limit(20), || {
        let heard = verdict::read(&printed(&server));
        said.iter().all(|(number, end)| !end.whole || heard.contains_key(number)).then_some(())
    });
    let heard = verdict::read(&printed(&server));
    let mut all = records(&world.here, "web");
    all.extend(records(&world.there, "far"));
    for (number, end) in said.iter().filter(|(_, end)| !end.whole) {
        println!("{number}: {}", end.what);
    }
    for record in all.iter().filter(|record| record.reason() != "") {
        println!("{} {}: {}", record.source(), record.reason(), record.detail());
    }
    let whole = verdict::check(0..count, &said, &heard, &all)
        .unwrap_or_else(|wrong| panic!("MTLSD_SEED={seed}:\n{wrong}\n{}", world.printed()));
    let direct =
        all.iter().filter(|r| r.workload() == "web" && r.datapath() == "direct" && r.reason() == "").count();
    println!("{whole} of {count} whole, {direct} of them direct; {deeds:?} {stops:?}");
    assert!(stops != Some(0), "nobody was stopped");
    // Or it would have shown nothing.
    assert!(whole >= usize::from(count) * 9 / 10, "MTLSD_SEED={seed}: only {whole} of {count} were whole");
    assert!(direct >= whole, "MTLSD_SEED={seed}: only {direct} of {whole} were direct");
    let printed = world.printed();
    assert!(!printed.contains("panicked"), "MTLSD_SEED={seed}: {printed}");
    capture.stop().assert_only_tls(PORT);
}

#[test]
fn random_connections_are_whole_and_sealed() {
    if let Some(why) = why_not_direct() {
        return could_not_run(random_connections_are_whole_and_sealed, why);
    }
    stress(Torment::Nobody);
}

#[test]
fn random_connections_under_an_adversary_are_whole_or_refused_before_their_first_byte() {
    let test = random_connections_under_an_adversary_are_whole_or_refused_before_their_first_byte;
    if let Some(why) = why_not_direct() {
        return could_not_run(test, why);
    }
    stress(Torment::Adversary);
}

#[test]
fn random_connections_whose_daemons_are_stopped_between_two_steps_are_whole_or_refused_before_their_first_byte()
 {
    let test =
        random_connections_whose_daemons_are_stopped_between_two_steps_are_whole_or_refused_before_their_first_byte;
    if let Some(why) = why_not_direct() {
        return could_not_run(test, why);
    }
    stress(Torment::Steps);
}
