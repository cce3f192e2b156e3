//! Each way to do IO, over a connection that is `direct`: what comes out is what went in, and it ends as it ended.
//!
//! Needs kernel TLS and tracing programs: a virtual machine (`cargo xtask test --only integration --kernel 6.12=direct_exact`).

use mtls_tests::direct_watch::{Wanted, Watch};
use mtls_tests::hold::why_not_direct;
use mtls_tests::manners::play::Play;
use mtls_tests::manners::{Manner, Shape};
use mtls_tests::{could_not_run, slow};

const PORT: u16 = 7000;
/// Connections for each manner and shape.
const COUNT: usize = 2;

/// A world in which `manners` has made a session.
#[track_caller]
fn watch() -> Watch {
    Watch::start(PORT, |world, to| {
        Play::new("blocking", "duplex", 1).run(world, to).expect("a relay carries the first one");
    })
}

fn reasons(shape: &str) -> &'static [&'static str] {
    if shape.contains("reset") { &["", "reset"] } else { &[""] }
}

fn name(manner: Manner) -> &'static str {
    Manner::ALL.iter().find(|(m, _)| *m == manner).map_or("", |(_, name)| *name)
}

/// These manners, of both ends, in these shapes, each by itself.
#[track_caller]
fn exact(manners: &[Manner], shapes: &[Shape]) {
    let pairs: Vec<_> = manners.iter().map(|manner| (*manner, *manner)).collect();
    exact_pairs(&pairs, shapes);
}

/// The client's manner and the server's.
#[track_caller]
fn exact_pairs(pairs: &[(Manner, Manner)], shapes: &[Shape]) {
    let name_shape = |shape: Shape| Shape::ALL.iter().find(|(s, _)| *s == shape).map_or("", |(_, n)| *n);
    let mut failures = Vec::new();
    let mut world = watch();
    let mut seed = 1000;
    // On a slow machine each manner in two of the shapes.
    let some =
        usize::try_from(slow::scaled(shapes.len() as u64, 2)).expect("a small number").min(shapes.len());
    for (at, (manner, served)) in
        pairs.iter().map(|(client, server)| (name(*client), name(*server))).enumerate()
    {
        for shape in shapes.iter().copied().map(name_shape).cycle().skip(at * 2).take(some) {
            seed += 100;
            let play = Play { served, count: COUNT, ..Play::new(manner, shape, seed) };
            let ran = play.run(&world.world, world.to());
            let looked = world.look(Wanted { connections: COUNT, reasons: reasons(shape) });
            let told: Vec<_> = [ran, looked].into_iter().filter_map(Result::err).collect();
            if told.is_empty() {
                println!("{manner} and {served}, {shape}: exact");
                continue;
            }
            failures.push(format!("== {manner} and {served}, {shape}: {}", told.join("\n   ")));
            eprintln!("{}\n{}", failures.last().map_or("", String::as_str), world.world.printed());
            // A relay carries the next ones of a pair that failed.
            world.no_plaintext();
            world = watch();
        }
    }
    let lines = failures.join("\n");
    assert!(failures.is_empty(), "{} of {} failed:\n{lines}", failures.len(), pairs.len() * some);
    world.only_tls();
}

const BOTH_WAYS: [Shape; 4] = [Shape::Duplex, Shape::HalfClose, Shape::ServerHalfClose, Shape::ServerFirst];
const ENDS: [Shape; 4] = [Shape::ClientCloses, Shape::ServerCloses, Shape::Reset, Shape::ServerReset];

macro_rules! exact {
    ($($(#[$note:meta])* $name:ident: [$($manner:ident),*], $shapes:expr;)*) => {
        $(
            $(#[$note])*
            #[test]
            fn $name() {
                if let Some(why) = why_not_direct() {
                    return could_not_run($name, why);
                }
                exact(&[$(Manner::$manner),*], &$shapes);
            }
        )*
    };
}

exact! {
    calls_that_wait_are_exact: [Blocking, Vectored, TimeOut], BOTH_WAYS;
    peek_and_waitall_are_exact: [Peek, WaitAll], BOTH_WAYS;
    event_loops_are_exact: [NonBlocking, EpollEdge, EpollLevel, Poll, Select], BOTH_WAYS;
    io_uring_is_exact: [Uring], BOTH_WAYS;
    threads_on_one_socket_are_exact: [Threads], BOTH_WAYS;
    a_child_that_writes_is_exact: [Child], BOTH_WAYS;
    a_duplicate_whose_first_number_is_closed_is_exact: [Dup], BOTH_WAYS;
    sendfile_and_splice_are_exact: [SendFile, Splice], BOTH_WAYS;
    calls_that_wait_may_close_or_reset_at_once: [Blocking, TimeOut, SendFile, Vectored], ENDS;
    event_loops_may_close_or_reset_at_once: [NonBlocking, EpollEdge, EpollLevel, Poll, Select, Uring], ENDS;
}

#[test]
fn ends_of_different_manners_are_exact() {
    if let Some(why) = why_not_direct() {
        return could_not_run(ends_of_different_manners_are_exact, why);
    }
    use Manner::{Blocking, Child, EpollEdge, Poll, Select, SendFile, Splice, TimeOut, Uring, WaitAll};
    let pairs = [
        (Blocking, EpollEdge),
        (EpollEdge, Blocking),
        (Poll, Splice),
        (Uring, WaitAll),
        (TimeOut, Uring),
        (SendFile, Select),
        (Child, SendFile),
    ];
    exact_pairs(&pairs, &[Shape::Duplex]);
}
