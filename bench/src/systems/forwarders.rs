//! stunnel and HAProxy: the client connects to the forwarder beside it, as people configure them by hand.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Between, HTTP, World};

/// Where the client's forwarder listens, and the server's.
const NEAR: u16 = 8081;
const FAR: u16 = 8443;

/// Certificate chain and key in one file, as both want it.
fn pem(world: &World, name: &str) -> Result<PathBuf> {
    let files = world.certificate(name);
    let path = world.lab.dir().join(format!("{name}-both.pem"));
    let both = fs::read_to_string(&files.chain).context("certificate")?
        + &fs::read_to_string(&files.key).context("key")?;
    fs::write(&path, both)?;
    Ok(path)
}

/// A pair of programs with a configuration each.
fn pair(
    world: &World,
    argv: [&str; 2],
    near: &str,
    far: &str,
    title: String,
    setting: &str,
) -> Result<Between> {
    let (mut processes, mut commands) = (Vec::new(), Vec::new());
    // The server first.
    for (pod, port, text) in [(world.db(), FAR, far), (world.web(), NEAR, near)] {
        let [program, option] = argv;
        let path = world.lab.dir().join(format!("{program}-{}.conf", pod.name));
        fs::write(&path, text)?;
        let mut argv = vec![program, option];
        argv.retain(|word| !word.is_empty());
        commands.push(format!("{} {}", argv.join(" "), path.display()));
        processes.push(pod.cmd(program).args(argv.iter().skip(1)).arg(&path).spawn());
        pod.wait_port(port);
    }
    let address = Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), NEAR));
    Ok(Between { processes, commands, address, title, setting: setting.into(), ..Between::default() })
}

/// A pair of stunnels.
pub fn stunnel(world: &World) -> Result<Between> {
    let (web, db, root) = (pem(world, "web")?, pem(world, "db")?, world.root().display());
    let common = format!(
        "foreground = yes\npid =\ndebug = err\nsslVersion = TLSv1.3\noptions = NO_TICKET\nsocket = l:TCP_NODELAY=1\n\
         socket = r:TCP_NODELAY=1\nCAfile = {root}\nverifyChain = yes\n"
    );
    let near = format!(
        "{common}[out]\nclient = yes\naccept = 127.0.0.1:{NEAR}\nconnect = {}\ncert = {}\n",
        world.db().at(FAR),
        web.display()
    );
    let far = format!("{common}[in]\naccept = {FAR}\nconnect = 127.0.0.1:{HTTP}\ncert = {}\n", db.display());
    let setting = "client mode and server mode, one thread for each connection; TLS 1.3, both sides verified, no tickets";
    pair(world, ["stunnel", ""], &near, &far, "stunnel pair".into(), setting)
}

/// A pair of HAProxys.
pub fn haproxy(world: &World) -> Result<Between> {
    let (web, db, root) = (pem(world, "web")?, pem(world, "db")?, world.root().display());
    let common = "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n";
    let near = format!(
        "{common}listen out\n  bind 127.0.0.1:{NEAR}\n  server db {} ssl ssl-min-ver TLSv1.3 verify required ca-file {root} \
         crt {} no-ssl-reuse no-tls-tickets\n",
        world.db().at(FAR),
        web.display()
    );
    let far = format!(
        "{common}listen in\n  bind :{FAR} ssl ssl-min-ver TLSv1.3 crt {} ca-file {root} verify required no-tls-tickets\n  \
         server nginx 127.0.0.1:{HTTP}\n",
        db.display()
    );
    let setting =
        "mode tcp, threads as it comes; TLS 1.3, both sides verified, no tickets and no reuse of sessions";
    pair(world, ["haproxy", "-f"], &near, &far, "HAProxy pair".into(), setting)
}
