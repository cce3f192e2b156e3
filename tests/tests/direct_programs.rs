//! Real programs, unmodified, over connections that are `direct`. curl and nginx: suite `direct`.
//!
//! Needs kernel TLS and tracing programs: a virtual machine (`cargo xtask test --only integration --kernel 6.12=direct_programs`).

use std::fs;

use mtls_tests::direct::World;
use mtls_tests::direct_watch::Watch;
use mtls_tests::hold::why_not_direct;
use mtls_tests::lab::Cmd;
use mtls_tests::programs::{self, Echo};
use mtls_tests::{could_not_run, slow};

macro_rules! needs_ktls {
    ($name:ident) => {
        if let Some(why) = why_not_direct() {
            return could_not_run($name, why);
        }
    };
}

fn psql(world: &World, sql: &str) -> Cmd {
    let host = world.far().v4.to_string();
    let words = ["-h", &host, "-U", "postgres", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql];
    world.web().cmd("psql").args(words)
}

#[test]
fn postgresql() {
    needs_ktls!(postgresql);
    let world = World::bare(&[5432], "", "");
    let _server = programs::postgres(world.far(), 5432);
    let mut watch = Watch::over(world, 5432, |world, _| {
        assert_eq!(psql(world, "select 1").run().ok().text(), "1");
    });
    // 2,000 rows of 500 characters, none like another.
    let sql = "select n || repeat(md5(n::text), 15) from generate_series(1, 2000) n";
    let rows = psql(&watch.world, sql).run().ok().text();
    let summed = format!("select md5(string_agg(t, E'\\n')) from ({sql}) rows(t)");
    assert_eq!(rows.lines().count(), 2000);
    assert_eq!(psql(&watch.world, &summed).run().ok().text(), md5(&watch.world, &rows));
    watch.all_direct("psql", 2);
    let host = watch.world.far().v4.to_string();
    let pgbench = |words: &[&str]| {
        let common = ["-h", &host, "-U", "postgres", "-n"];
        let command = programs::pgbench(watch.world.web()).args(common).args(words).arg("postgres");
        command.limit(slow::limit(120)).run().ok().text()
    };
    pgbench(&["-i", "-q"]);
    let printed = pgbench(&["-c", "4", "-j", "2", "-t", "20"]);
    assert!(printed.contains("80/80"), "{printed}");
    // A connection for each transaction. The server answers the first eight bytes with one, in non-blocking mode, and gives up when it
    // is told EAGAIN: it must never be able to read before it can write.
    let printed = pgbench(&["-c", "4", "-j", "2", "-t", "10", "-C"]);
    assert!(printed.contains("40/40"), "{printed}");
    watch.direct_however_many("pgbench");
    watch.only_tls();
}

fn md5(world: &World, text: &str) -> String {
    let printed = world.lab.tool("md5sum").stdin(text).run().ok().text();
    printed.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn redis() {
    needs_ktls!(redis);
    let world = World::bare(&[6379], "", "");
    let _server = programs::redis(world.far(), 6379);
    let cli = |world: &World, words: &[&str]| {
        let host = world.far().v4.to_string();
        world.web().cmd("redis-cli").args(["-h", &host]).args(words)
    };
    let mut watch = Watch::over(world, 6379, |world, _| {
        assert_eq!(cli(world, &["ping"]).run().ok().text(), "PONG");
    });
    let value: String = (0..200_000).map(|n: u32| format!("{n} ")).collect();
    assert_eq!(cli(&watch.world, &["-x", "set", "large"]).stdin(value.clone()).run().ok().text(), "OK");
    assert_eq!(cli(&watch.world, &["get", "large"]).run().ok().text(), value.trim_end());
    watch.all_direct("redis-cli", 2);
    let host = watch.world.far().v4.to_string();
    let words = ["-h", &host, "-n", "400", "-c", "8", "-P", "4", "-t", "set,get,lrange_100", "-q"];
    watch.world.web().cmd("redis-benchmark").args(words).limit(slow::limit(120)).run().ok();
    watch.direct_however_many("redis-benchmark");
    watch.only_tls();
}

/// Gets a file of `bytes` MiB from there and compares it.
#[track_caller]
fn gets(watch: &Watch, url: &str, source: &std::path::Path, count: usize) {
    for _ in 0..count {
        let got = watch.world.lab.dir().join("got");
        let curl = watch.world.web().cmd("curl").args(["-sSf", "--max-time", "300", "-o"]);
        curl.arg(&got).arg(url).limit(slow::limit(60)).run().ok();
        assert!(fs::read(source).expect("a file") == fs::read(got).expect("a file"), "{url}");
    }
}

#[test]
fn haproxy_before_nginx() {
    needs_ktls!(haproxy_before_nginx);
    let world = World::bare(&[8000], "", "");
    let _nginx = programs::nginx(world.far(), 80);
    let _haproxy = programs::haproxy(world.far(), 8000, 80);
    let mut watch = Watch::over(world, 8000, |world, to| {
        assert_eq!(world.get(to).ok().text(), "hello from far");
    });
    let far = watch.world.far();
    let source = programs::nginx_files(far).join("file");
    programs::random_file(far, &source, 2);
    gets(&watch, &format!("http://{}/files/file", watch.to()), &source, 3);
    watch.all_direct("curl, haproxy and nginx", 3);
    watch.only_tls();
}

#[test]
fn openssh() {
    needs_ktls!(openssh);
    let world = World::bare(&[22], "", "");
    let sshd = programs::Ssh::start(world.far(), 22);
    let run = |world: &World, command: &str, input: Vec<u8>| {
        let ssh = sshd.command(world.web(), world.far()).arg(command).stdin(input);
        ssh.limit(slow::limit(60)).run().ok().stdout
    };
    let mut watch = Watch::over(world, 22, |world, _| {
        assert_eq!(run(world, "echo hello", Vec::new()), b"hello\n");
    });
    let mut bytes = vec![0; 700_001];
    mtls_tests::bytes::Bytes::new(3).fill(&mut bytes);
    for _ in 0..2 {
        assert!(run(&watch.world, "cat", bytes.clone()) == bytes, "other bytes came back");
    }
    watch.all_direct("ssh", 2);
    watch.only_tls();
}

#[test]
fn caddy_a_go_program_as_server_and_as_client() {
    needs_ktls!(caddy_a_go_program_as_server_and_as_client);
    let world = World::bare(&[8080], "", "");
    let root = programs::directory(world.far(), "site");
    let source = root.join("file");
    programs::random_file(world.far(), &source, 2);
    let _server = programs::caddy(world.far(), 8080, &root);
    let mut watch = Watch::over(world, 8080, |world, to| {
        world.get(to);
    });
    gets(&watch, &format!("http://{}/file", watch.to()), &source, 3);
    watch.all_direct("curl and caddy", 3);
    let mut proxy = programs::caddy_in_front_of(watch.world.web(), 8081, watch.to());
    gets(&watch, "http://127.0.0.1:8081/file", &source, 2);
    proxy.terminate();
    watch.direct_however_many("caddy and caddy");
    watch.only_tls();
}

#[track_caller]
fn echoes(language: Echo) {
    let world = World::bare(&[7007], "", "");
    let _server = language.serve(world.far(), 7007);
    let mut watch = Watch::over(world, 7007, |world, to| language.compare(world.web(), to, 1000, 1));
    language.compare(watch.world.web(), watch.to(), 400_000, 4);
    watch.all_direct(&format!("{language:?}"), 4);
    watch.only_tls();
}

#[test]
fn java() {
    needs_ktls!(java);
    echoes(Echo::Java);
}

#[test]
fn node() {
    needs_ktls!(node);
    echoes(Echo::Node);
}

#[test]
fn python_with_a_server_that_forks() {
    needs_ktls!(python_with_a_server_that_forks);
    echoes(Echo::Python);
}
