//! Strict ports, tried for real: a plain connection with a plaintext request, to each port on which an application of a
//! strict workload listens.
//!
//! It comes from inside the workload's namespace to the namespace's own address. The kernel looks for who takes it as it
//! does for a peer's: in `__inet_lookup_listener`, where the `sk_lookup` program runs, whatever the interface; and the
//! daemon then treats it as anybody's. What a packet from outside meets *before* that (a firewall's redirection) is not
//! tried. Its refusal is in no log and no metric, and no flow.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mtls_common::SocketKind;
use socket2::{Domain, Protocol, Socket, Type};

use super::account::Mark;
use super::{Finding, places};
use crate::config::{Mode, is_never_captured};
use crate::datapath::relay::Place;
use crate::lifecycle::daemon::Daemon;
use crate::observe::Reason;
use crate::observe::connection::{Event, RecordedReason};
use crate::snapshot::{Snapshot, WorkloadState};
use crate::sys::sock_diag::{CONNECTED, StateFlags, each_tcp};

/// So many ports of one namespace are tried.
const MOST_PORTS: usize = 128;
/// On a machine under load the daemon's accept may take a while.
const PATIENCE: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// A port to be tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    workload: String,
    at: SocketAddr,
}

/// What became of one trial.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// Not even a connection.
    NoConnection,
    /// The daemon took the connection and refused it.
    Refused(Reason),
    /// Somebody else took the connection.
    TakenByApplication,
    /// Bytes came back.
    Answered(usize),
    /// It is not known.
    Unknown(String),
}

impl Outcome {
    fn finding(&self, target: &Target) -> Finding {
        let at = target.at;
        let whose = Some(target.workload.clone());
        let mend = "See the checks of programs, tables and namespaces; until they hold, close the port.";
        match self {
            Self::NoConnection => Finding::good(whose, format!("{at} refuses every connection")),
            Self::Refused(reason) => Finding::good(
                whose,
                format!("{at} took a plaintext request and refused it: {}", reason.code()),
            ),
            Self::TakenByApplication => {
                Finding::bad(whose, format!("{at}: the application itself takes plain connections"), mend)
            }
            Self::Answered(bytes) => Finding::bad(
                whose,
                format!("{at}: a plaintext request was answered with {bytes} bytes"),
                mend,
            ),
            Self::Unknown(why) => {
                Finding::bad(whose, format!("{at} could not be tried: {why}"), "Try again.")
            }
        }
    }
}

/// Tries every strict port of every place.
pub(super) fn look(daemon: &Daemon) -> Vec<Finding> {
    let snapshot = daemon.relay.snapshot.load_full();
    let mut findings = Vec::new();
    for place in places(daemon) {
        let path = place.netns.path().display();
        match targets(&snapshot, &place) {
            Ok(targets) => {
                let trials = try_all(daemon, &place, &targets);
                findings.extend(targets.iter().zip(trials).map(|(target, outcome)| outcome.finding(target)));
            }
            Err(error) => {
                let detail = format!("{path}: its listeners cannot be listed: {error}");
                findings.push(Finding::bad(None, detail, "Load the kernel's module: `modprobe tcp_diag`."));
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::good(None, "no application listens on a strict port"));
    }
    findings
}

/// The strict ports on which somebody listens, at addresses that a peer can reach.
fn targets(snapshot: &Snapshot, place: &Place) -> io::Result<Vec<Target>> {
    let owners = place.owners.load_full();
    let (listeners, addresses) = place.netns.run(|| {
        let mut listeners = BTreeSet::new();
        each_tcp(StateFlags::LISTEN, None, |socket| {
            listeners.insert(socket.local);
        })?;
        Ok((listeners, addresses()?))
    })?;
    let of_port = |port: u16| owners.of(port).and_then(|number| snapshot.workloads.get(&number));
    let mut targets = BTreeSet::new();
    for listener in listeners {
        let Some(workload) = of_port(listener.port()) else { continue };
        if is_strict(snapshot, workload, listener.port()) {
            let name = &workload.settings.name;
            let reached = reachable(listener, &addresses).into_iter();
            targets.extend(reached.map(|at| Target { workload: name.clone(), at }));
        }
    }
    Ok(targets.into_iter().take(MOST_PORTS).collect())
}

fn is_strict(snapshot: &Snapshot, workload: &WorkloadState, port: u16) -> bool {
    let settings = &workload.settings;
    let excluded = settings.exclude.ports.contains(&port) || snapshot.config.exclude.ports.contains(&port);
    settings.mode_of_port(port) == Mode::Strict && !excluded
}

/// The addresses of the calling thread's namespace that a peer can reach.
fn addresses() -> io::Result<Vec<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs().map_err(io::Error::from)?;
    let all = all.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(all.filter(|address| !is_never_captured(*address)).collect())
}

/// Where a peer reaches a listener: at its own address, or at one of each family if it listens on all of them.
fn reachable(listener: SocketAddr, addresses: &[IpAddr]) -> Vec<SocketAddr> {
    let (ip, port) = (listener.ip(), listener.port());
    if !ip.is_unspecified() {
        return if is_never_captured(ip) { Vec::new() } else { vec![listener] };
    }
    let first = |v6: bool| addresses.iter().find(|address| address.is_ipv6() == v6);
    // An IPv6 listener takes IPv4 too, unless it was told not to: then the connection is refused.
    let families: &[bool] = if ip.is_ipv6() { &[false, true] } else { &[false] };
    families.iter().filter_map(|v6| first(*v6)).map(|ip| SocketAddr::new(*ip, port)).collect()
}

/// A connection of the daemon to a strict port.
struct Trial {
    stream: TcpStream,
    from: SocketAddr,
}

/// In the order of the targets. All are connected before the kernel is asked who took them.
fn try_all(daemon: &Daemon, place: &Arc<Place>, targets: &[Target]) -> Vec<Outcome> {
    let connected: Vec<_> = targets.iter().map(|target| connect(daemon, place, target.at)).collect();
    if connected.iter().all(Result::is_err) {
        return connected.into_iter().map(|trial| not_connected(trial.err())).collect();
    }
    let trials = targets.iter().zip(&connected);
    let wanted = trials.filter_map(|(target, trial)| Some((target.at, trial.as_ref().ok()?.from))).collect();
    let takers = place.netns.run(|| takers(daemon, &wanted));
    let outcome = |(target, trial): (&Target, io::Result<Trial>)| match trial {
        Ok(trial) => {
            let outcome = match &takers {
                Ok(takers) => judge(daemon, &trial, takers.get(&(target.at, trial.from)).copied()),
                Err(error) => Outcome::Unknown(error.to_string()),
            };
            place.forget_probe(trial.from);
            outcome
        }
        Err(error) => not_connected(Some(error)),
    };
    targets.iter().zip(connected).map(outcome).collect()
}

fn not_connected(error: Option<io::Error>) -> Outcome {
    match error {
        Some(error) if error.kind() == ErrorKind::ConnectionRefused => Outcome::NoConnection,
        Some(error) => Outcome::Unknown(error.to_string()),
        None => Outcome::Unknown("it was not tried".to_owned()),
    }
}

fn connect(daemon: &Daemon, place: &Place, to: SocketAddr) -> io::Result<Trial> {
    let domain = Domain::for_address(to);
    let socket = place.netns.run(|| Socket::new(domain, Type::STREAM, Some(Protocol::TCP)))?;
    // Or it would be a workload that talks to itself, which is not steered.
    daemon.relay.capture.mark_own(&socket, None).map_err(io::Error::other)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&SocketAddr::new(to.ip(), 0).into())?;
    let from = socket.local_addr()?.as_socket().ok_or(ErrorKind::InvalidData)?;
    place.expect_probe(from);
    if let Err(error) = socket.connect_timeout(&to.into(), PATIENCE) {
        place.forget_probe(from);
        return Err(error);
    }
    Ok(Trial { stream: socket.into(), from })
}

/// Own and peer's address of an accepting end.
type End = (SocketAddr, SocketAddr);

/// Whether the daemon has each of these accepting ends, in the calling thread's namespace.
fn takers(daemon: &Daemon, wanted: &HashSet<End>) -> io::Result<HashMap<End, bool>> {
    let mut takers = HashMap::new();
    each_tcp(CONNECTED, daemon.relay.capture.sockets(), |socket| {
        let end = (socket.local, socket.remote);
        if wanted.contains(&end) {
            let mark = socket.storage.and_then(Mark::parse);
            takers.insert(end, mark.is_some_and(|mark| mark.kind == Some(SocketKind::Own)));
        }
    })?;
    Ok(takers)
}

/// `taker`: whether the daemon has the other end. `None`: nobody has it (it may be refused already), so that only the
/// daemon's own word counts.
fn judge(daemon: &Daemon, trial: &Trial, taker: Option<bool>) -> Outcome {
    if taker == Some(false) {
        return Outcome::TakenByApplication;
    }
    match converse(&trial.stream) {
        Ok(0) => {}
        Ok(bytes) => return Outcome::Answered(bytes),
        Err(error) => return Outcome::Unknown(error.to_string()),
    }
    // Whoever closed it, the daemon must have refused it: or it may have been the application's doing.
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let records = daemon.relay.probes.recorder().list(None, usize::MAX);
        let record = records.iter().find(|r| r.source == trial.from && r.event != Event::Open);
        if let Some(record) = record {
            let reason = record.reason.as_ref().and_then(RecordedReason::reason);
            return match (record.event, reason) {
                (Event::Refused, Some(reason)) => Outcome::Refused(reason),
                (event, _) => Outcome::Unknown(format!("the daemon did not refuse it: {event:?}")),
            };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Outcome::Unknown("the daemon does not say what became of it".to_owned())
}

/// Bytes that came back for a plaintext request; a reset is none.
fn converse(mut stream: &TcpStream) -> io::Result<usize> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut answer = [0; 512];
    let said = stream.write_all(REQUEST).and_then(|()| stream.read(&mut answer));
    match said {
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(0),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(io::Error::other(format!("it neither answered nor refused within {PATIENCE:?}")))
        }
        said => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::{config, snapshot};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_listener_is_tried_where_a_peer_reaches_it() {
        let addresses: Vec<IpAddr> = ["10.0.0.2", "10.0.0.9", "fd00::2"].map(|a| a.parse().unwrap()).into();
        assert_eq!(reachable(at("0.0.0.0:80"), &addresses), [at("10.0.0.2:80")]);
        assert_eq!(reachable(at("[::]:80"), &addresses), [at("10.0.0.2:80"), at("[fd00::2]:80")]);
        assert_eq!(reachable(at("10.0.0.9:80"), &addresses), [at("10.0.0.9:80")]);
        for local in ["127.0.0.1:80", "[::1]:80", "[fe80::1]:80"] {
            assert!(reachable(at(local), &addresses).is_empty(), "{local}");
        }
        assert!(reachable(at("0.0.0.0:80"), &[]).is_empty(), "no address, no peer");
    }

    #[test]
    fn only_strict_ports_that_are_not_excluded_are_tried() {
        let snapshot = snapshot(config(
            "exclude: { ports: [22] }\nworkloads: [{ name: web, select: { netns: web }, ports: { 81: permissive, 82: disabled }, \
             exclude: { ports: [83] } }]",
        ));
        let web = snapshot.by_name("web").unwrap();
        let strict = |port| is_strict(&snapshot, web, port);
        assert!(strict(80));
        assert_eq!([81, 82, 83, 22].map(strict), [false; 4]);
    }

    #[test]
    fn only_a_refusal_is_a_success() {
        let target = Target { workload: "web".to_owned(), at: at("10.0.0.2:80") };
        for (outcome, ok, words) in [
            (Outcome::NoConnection, true, "refuses every connection"),
            (Outcome::Refused(Reason::Plaintext), true, "refused it: plaintext"),
            (Outcome::TakenByApplication, false, "the application itself"),
            (Outcome::Answered(12), false, "answered with 12 bytes"),
            (Outcome::Unknown("of a defect".to_owned()), false, "could not be tried: of a defect"),
        ] {
            let finding = outcome.finding(&target);
            assert_eq!((finding.ok, finding.mend.is_empty()), (ok, ok), "{finding:?}");
            assert!(finding.detail.contains(words) && finding.workload.as_deref() == Some("web"));
        }
    }

    /// A server that does with its first connection what `with` does.
    fn server(with: impl FnOnce(TcpStream) + Send + 'static) -> TcpStream {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || with(listener.accept().unwrap().0));
        TcpStream::connect(to).unwrap()
    }

    #[test]
    fn an_answer_is_counted_and_an_end_or_a_reset_is_none() {
        let answers = server(|mut stream| stream.write_all(b"HTTP").unwrap());
        assert!(matches!(converse(&answers), Ok(1..)));
        let ends = server(|mut stream| {
            let mut request = [0; REQUEST.len()];
            stream.read_exact(&mut request).unwrap();
        });
        assert_eq!(converse(&ends).unwrap(), 0);
        let resets = server(|stream| {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        });
        assert_eq!(converse(&resets).unwrap(), 0);
    }
}
