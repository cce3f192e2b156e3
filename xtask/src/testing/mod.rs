//! `cargo xtask test`: every test of the project, on a machine that may lack all the test programs.

mod guests;
mod libtest;
mod machines;
mod report;
mod stream;
mod summary;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::run::{Cmd, heading};
use crate::vm::KernelName;
use crate::{package, repo, setup};
use guests::{Share, Task};
use libtest::Parser;
use machines::{Machine, Suite, Wanted};
use report::Report;
use stream::Ended;
use summary::Part;

/// The package of the integration tests.
const INTEGRATION: &str = "mtls-tests";
/// Selects the unit tests. Always together: another selection has other features, and everything is built anew.
const UNIT: [&str; 4] = ["--workspace", "--exclude", INTEGRATION, "--tests"];
/// Names the file where a test that cannot run on this machine writes `name<TAB>reason`.
const NOT_RUN: &str = "MTLSD_TEST_NOT_RUN";
/// Names the Debian package of the daemon under test.
const PACKAGE: &str = "MTLSD_DEB";
/// libtest's number of tests at the same time.
const TEST_THREADS: &str = "RUST_TEST_THREADS";
/// libtest prints a line whenever a test ends: this long without one is a hang.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not run the test of this full name (as the summary shows it); may be repeated.
    #[arg(long, value_name = "NAME")]
    exclude: Vec<String>,
    /// Leave out what cannot run on this machine of this suite of integration tests; may be repeated. A kernel that `--kernel` names with
    /// the suite runs it all the same.
    #[arg(long, value_name = "SUITE")]
    exclude_suite: Vec<String>,
    /// Run only one kind of tests. Unit tests include the documentation's examples and need no root.
    #[arg(long)]
    only: Option<Kind>,
    /// Run the integration tests on this kernel: `host`, a series of Debian's, or the path of one of yours; may be
    /// repeated. Without it: the host's, 6.1, 6.12 and 7.2. With suites: only those (`datapath`: the daemon's unit
    /// tests of the datapath, on kernel TLS), and of a suite with a part only tests whose names contain it.
    #[arg(long = "kernel", value_name = "KERNEL[=SUITE[/PART],…]")]
    kernels: Vec<Wanted>,
    /// Do not run on this one of the kernels; may be repeated.
    #[arg(long, value_name = "KERNEL")]
    exclude_kernel: Vec<Machine>,
    /// Virtual machines at the same time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    guests: u32,
    /// Processors of each virtual machine
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    guest_cpus: u32,
    /// Run only tests whose name contains this.
    filter: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Tests inside the crates, and the examples in their documentation.
    Unit,
    /// The package `mtls-tests`: the daemon against real programs.
    Integration,
}

/// Four fifths of an integration test are waiting: two for each processor, unless somebody has said how many.
fn threads() -> Option<PathBuf> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::env::var_os(TEST_THREADS).is_none().then(|| (2 * processors).to_string().into())
}

/// One invocation of `cargo test`.
#[derive(Clone)]
struct Phase {
    title: &'static str,
    /// What follows `cargo test`.
    select: Vec<&'static str>,
    /// Environment of the test programs.
    env: Vec<(&'static str, PathBuf)>,
    /// rustdoc splits arguments at spaces and every name of an example has some: no exact names there.
    names: bool,
    /// Only tests whose full name starts so.
    starts_with: &'static str,
}

/// Runs the tests and prints the summary.
pub fn run(args: &Args) -> Result<ExitCode> {
    let root = repo::root()?;
    let mut report = Report::default();
    let mut known: Vec<String> = Vec::new();
    let machines = machines::chosen(&args.kernels, &args.exclude_kernel);
    let (on_host, in_guest): (Vec<_>, Vec<_>) =
        machines.into_iter().partition(|wanted| wanted.machine == Machine::Host);

    // The machine first: it fails in seconds, the builds take minutes.
    let mut machine_ready = false;
    if args.only != Some(Kind::Unit) {
        match setup::prepare_tests("cargo xtask test", &root)
            .and_then(|()| if in_guest.is_empty() { Ok(()) } else { setup::prepare_vm("cargo xtask test") })
        {
            Ok(()) => machine_ready = true,
            Err(error) => {
                eprintln!("error: {error:#}");
                report.problem(format!("the integration tests could not run: {error:#}"));
            }
        }
    }
    if args.only != Some(Kind::Integration) {
        phase(&root, args, &Phase::new("unit tests", &UNIT), &mut report, &mut known);
        let examples =
            Phase { names: false, ..Phase::new("examples in the documentation", &["--workspace", "--doc"]) };
        phase(&root, args, &examples, &mut report, &mut known);
    }
    let mut parts = Vec::new();
    if machine_ready {
        match build_programs(&root, args.only.is_none()) {
            Ok(daemon) => {
                let mut tests = Phase::new("integration tests", &["--package", INTEGRATION, "--tests"]);
                tests.env.push(("MTLSD_BIN", daemon.clone()));
                match package::make(&root, &daemon) {
                    Ok(package) => tests.env.push((PACKAGE, package)),
                    Err(error) => report.problem(format!("the Debian package cannot be made: {error:#}")),
                }
                if !on_host.is_empty() {
                    let mut here = tests.clone();
                    here.env.extend(threads().map(|threads| (TEST_THREADS, threads)));
                    phase(&root, args, &here, &mut report, &mut known);
                }
                match in_guests(&root, args, &tests, &in_guest, &daemon, &mut known) {
                    Ok(guests) => parts = guests,
                    Err(error) => {
                        eprintln!("error: {error:#}");
                        report.problem(format!("the tests on other kernels could not run: {error:#}"));
                    }
                }
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                report.problem(format!("the integration tests could not run: {error:#}"));
            }
        }
    }
    // A name that excludes nothing is a typing error, or a test that is gone: both must be seen.
    for name in args.exclude.iter().filter(|name| args.only.is_none() && !known.contains(name)) {
        report.problem(format!("--exclude {name}: no test has this name"));
    }
    for fault in machines::faults(&args.kernels, &args.exclude_kernel) {
        report.problem(fault);
    }
    if known.is_empty() && report.failures() == 0 {
        report.problem("no test was selected".to_owned());
    }

    for name in &args.exclude_suite {
        if !report.exclude_suite(|suite| suite_name(suite) == *name) {
            report.problem(format!("--exclude-suite {name}: no suite of this run has this name"));
        }
    }

    heading("summary");
    let machine = format!("this machine: kernel {}, kTLS {}", setup::kernel_release(), setup::ktls());
    parts.insert(0, Part { machine, report });
    summary::accept_elsewhere(&mut parts);
    print!("{}", summary::text(&parts));
    Ok(if summary::is_success(&parts) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The integration tests in virtual machines, and the daemon's unit tests of the datapath, which have kernel TLS
/// only there.
fn in_guests(
    root: &Path,
    args: &Args,
    integration: &Phase,
    machines: &[Wanted],
    daemon: &Path,
    known: &mut Vec<String>,
) -> Result<Vec<Part>> {
    if machines.is_empty() {
        return Ok(Vec::new());
    }
    heading("tests on other kernels: building");
    let mut tasks = tasks(root, args, integration, known)?;
    if args.only.is_none() {
        let mut datapath = Phase::new("unit tests of the datapath", &UNIT);
        datapath.starts_with = "datapath::";
        let more = self::tasks(root, args, &datapath, known)?;
        let on =
            |task: &Task, datapath| Task { env: vec![("MTLSD_TEST_DATAPATH", datapath)], ..task.clone() };
        tasks.extend(more.iter().map(|task| on(task, "relay-ktls")));
        tasks.extend(
            more.iter().map(|task| Task { program: task.program.again("with auto"), ..on(task, "auto") }),
        );
    }
    let mut shares = Vec::new();
    for wanted in machines {
        if let Machine::Guest(kernel) = &wanted.machine {
            shares.push(share(wanted, kernel, &tasks, &args.exclude)?);
        }
    }
    for Share { kernel, tasks, .. } in &shares {
        let tests: usize = tasks.iter().map(|task| task.tests.len()).sum();
        heading(&format!("tests on kernel {kernel}: {tests}"));
    }
    shares.retain(|share| !share.tasks.is_empty());
    let package = integration.env.iter().find(|(name, _)| *name == PACKAGE).map(|(_, path)| path.as_path());
    let plan =
        guests::Plan { root, target: &repo::target_dir(root)?, cpus: args.guest_cpus, daemon, package };
    Ok(guests::run_all(&plan, &shares, args.guests))
}

/// The test programs of a phase with those of their tests that were selected; excluded ones are still among them.
fn tasks(root: &Path, args: &Args, phase: &Phase, known: &mut Vec<String>) -> Result<Vec<Task>> {
    let programs = guests::build(root, &phase.select)?;
    let list = list(root, phase)?;
    known.extend(list.iter().map(|(_, test)| test.clone()));
    let selected = |test: &str| {
        test.starts_with(phase.starts_with)
            && (args.exclude.iter().any(|name| name == test)
                || args.filter.as_ref().is_none_or(|filter| test.contains(filter.as_str())))
    };
    let of = |program: &guests::Program| {
        let suite = program.suite();
        let tests = list.iter().filter(|(name, test)| *name == suite && selected(test));
        tests.map(|(_, test)| test.clone()).collect()
    };
    Ok(programs.into_iter().map(|program| Task { tests: of(&program), program, env: Vec::new() }).collect())
}

/// What one kernel has to do. A suite that there is not is an error: it would run nothing and look well.
fn share(wanted: &Wanted, kernel: &KernelName, tasks: &[Task], exclude: &[String]) -> Result<Share> {
    let mut expected = Report::default();
    let mut chosen = Vec::new();
    let names: Vec<_> = tasks.iter().map(|task| suite_name(&task.program.suite())).collect();
    if let Some(unknown) = wanted.suites.iter().find(|suite| !names.contains(&suite.name)) {
        bail!("--kernel {kernel}: there is no suite `{}`; there are {}", unknown.name, names.join(", "));
    }
    let has_some = |suite: &Suite| {
        tasks.iter().zip(&names).any(|(task, name)| task.tests.iter().any(|test| suite.has(name, test)))
    };
    let mut parts = wanted.suites.iter().filter(|suite| !suite.part.is_empty());
    if let Some(unknown) = parts.find(|suite| !has_some(suite)) {
        bail!("--kernel {kernel}: `{unknown}` names no test");
    }
    for (task, name) in tasks.iter().zip(&names) {
        let (excluded, tests): (Vec<_>, Vec<_>) = task
            .tests
            .iter()
            .filter(|test| wanted.has(name, test))
            .cloned()
            .partition(|test| exclude.contains(test));
        for (names, excluded) in [(&excluded, true), (&tests, false)] {
            names.iter().for_each(|test| expected.expect(&task.program.suite(), test, excluded));
        }
        if !tests.is_empty() {
            chosen.push(Task { tests, ..task.clone() });
        }
    }
    Ok(Share { kernel: kernel.clone(), tasks: chosen, expected })
}

/// The name by which a suite is asked for: its test program's, but for the daemon's unit tests.
fn suite_name(suite: &str) -> String {
    match suite.split_once(' ') {
        Some(("mtls_daemon", _)) => machines::DATAPATH.to_owned(),
        Some((program, _)) => program.to_owned(),
        None => suite.to_owned(),
    }
}

/// Builds the daemon in the development profile; returns its path.
pub fn build_daemon(root: &Path) -> Result<PathBuf> {
    heading("building the daemon");
    Cmd::cargo(root).args(["build", "--package", "mtls-daemon"]).run()?;
    daemon_in(root)
}

/// Builds the daemon, and the benchmark, which a test runs as a whole; returns the daemon's path. `beside_units`: the unit tests have
/// been built. Their features are the whole workspace's, and by its package alone the daemon would be built anew with others.
fn build_programs(root: &Path, beside_units: bool) -> Result<PathBuf> {
    if !beside_units {
        let daemon = build_daemon(root)?;
        heading("building the benchmark");
        Cmd::cargo(root).args(["build", "--package", "mtls-bench"]).run()?;
        return Ok(daemon);
    }
    heading("building the daemon and the benchmark");
    Cmd::cargo(root).arg("build").args(UNIT).args(["--bin", "mtlsd", "--bin", "mtls-bench"]).run()?;
    daemon_in(root)
}

fn daemon_in(root: &Path) -> Result<PathBuf> {
    let daemon = repo::target_dir(root)?.join("debug/mtlsd");
    if !daemon.is_file() {
        bail!(
            "cargo built mtls-daemon, and {} is not there; is `build.target` set in a configuration file?",
            daemon.display()
        );
    }
    Ok(daemon)
}

impl Phase {
    fn new(title: &'static str, select: &[&'static str]) -> Self {
        Self { title, select: select.to_vec(), env: Vec::new(), names: true, starts_with: "" }
    }

    fn cargo_test(&self, root: &Path) -> Cmd {
        let cmd = Cmd::cargo(root).arg("test").args(&self.select);
        self.env.iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value))
    }
}

/// Runs one phase; whatever goes wrong becomes part of the report, so that the other phases still run.
fn phase(root: &Path, args: &Args, phase: &Phase, report: &mut Report, known: &mut Vec<String>) {
    if let Err(error) = try_phase(root, args, phase, report, known) {
        eprintln!("error: {error:#}");
        report.problem(format!("{}: {error:#}", phase.title));
    }
}

fn try_phase(
    root: &Path,
    args: &Args,
    phase: &Phase,
    report: &mut Report,
    known: &mut Vec<String>,
) -> Result<()> {
    heading(&format!("{}: building", phase.title));
    if phase.names {
        phase.cargo_test(root).arg("--no-run").run()?;
    }
    let list = list(root, phase)?;
    let chosen = choose(args, phase, &list, report, known)?;
    heading(&format!("{}: {} of {}", phase.title, chosen.len(), list.len()));
    if chosen.is_empty() {
        return Ok(());
    }
    let not_run = NotRunFile::new(&repo::target_dir(root)?)?;
    let cmd = phase
        .cargo_test(root)
        .arg("--no-fail-fast")
        .env(NOT_RUN, &not_run.path)
        .arg("--")
        .args(libtest_args(phase, args, &chosen));
    let before = report.failures();
    let mut parser = Parser::default();
    let ended = stream::run(cmd, PATIENCE, |line| {
        println!("{line}");
        if let Some(event) = parser.line(line) {
            report.event(event);
        }
    })?;
    report.cross_check();
    for (test, reason) in not_run.read()? {
        report.could_not_run(&test, &reason);
    }
    match ended {
        Ended::Exited(status) if !status.success() && report.failures() == before => {
            report.problem(format!("{}: cargo test failed ({status}) though no test did", phase.title));
        }
        Ended::Exited(_) => {}
        Ended::Silent(time) => {
            report.problem(format!(
                "{}: no test ended for {} minutes; killed",
                phase.title,
                time.as_secs() / 60
            ));
        }
    }
    Ok(())
}

/// The tests to run. The report expects them; what is excluded by name is noted there too.
fn choose<'a>(
    args: &Args,
    phase: &Phase,
    list: &'a [(String, String)],
    report: &mut Report,
    known: &mut Vec<String>,
) -> Result<Vec<&'a str>> {
    let mut chosen = Vec::new();
    for (suite, test) in list {
        known.push(test.clone());
        let excluded = args.exclude.contains(test);
        if excluded && !phase.names {
            bail!("`{test}` is an example in the documentation and cannot be excluded by name");
        }
        if excluded || args.filter.as_ref().is_none_or(|filter| test.contains(filter.as_str())) {
            report.expect(suite, test, excluded);
            if !excluded {
                chosen.push(test.as_str());
            }
        }
    }
    Ok(chosen)
}

fn list(root: &Path, phase: &Phase) -> Result<Vec<(String, String)>> {
    let cmd = phase.cargo_test(root).args(["--", "--list", "--format", "terse"]);
    let mut output = String::new();
    match stream::run(cmd, PATIENCE, |line| {
        output.push_str(line);
        output.push('\n');
    })? {
        Ended::Exited(status) if status.success() => Ok(libtest::listed(&output)),
        Ended::Exited(status) => bail!("the tests cannot be listed ({status}):\n{output}"),
        Ended::Silent(_) => bail!("listing the tests did not end"),
    }
}

/// What libtest is asked for. Its `--skip` and its filter are both exact or both not.
fn libtest_args<'a>(phase: &Phase, args: &'a Args, chosen: &[&'a str]) -> Vec<&'a str> {
    match (&args.filter, args.exclude.is_empty() || !phase.names) {
        (None, true) => Vec::new(),
        (Some(filter), true) => vec![filter],
        (None, false) => {
            let skips = args.exclude.iter().flat_map(|name| ["--skip", name.as_str()]);
            ["--exact"].into_iter().chain(skips).collect()
        }
        (Some(_), false) => ["--exact"].into_iter().chain(chosen.iter().copied()).collect(),
    }
}

/// The file in which tests say that they could not run.
struct NotRunFile {
    path: PathBuf,
}

impl NotRunFile {
    fn new(target: &Path) -> Result<Self> {
        let path = target.join(format!("xtask-not-run-{}", std::process::id()));
        std::fs::write(&path, "").with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { path })
    }

    fn read(&self) -> Result<Vec<(String, String)>> {
        let text = std::fs::read_to_string(&self.path)
            .with_context(|| format!("{} cannot be read", self.path.display()))?;
        Ok(not_run_lines(&text))
    }
}

impl Drop for NotRunFile {
    fn drop(&mut self) {
        // A leftover in the target directory harms nobody.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn not_run_lines(text: &str) -> Vec<(String, String)> {
    let split = |line: &str| match line.split_once('\t') {
        Some((test, reason)) => (test.to_owned(), reason.to_owned()),
        None => (line.to_owned(), "no reason given".to_owned()),
    };
    text.lines().filter(|line| !line.is_empty()).map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(exclude: &[&str], filter: Option<&str>) -> Args {
        Args {
            exclude: exclude.iter().map(|&name| name.to_owned()).collect(),
            only: None,
            kernels: Vec::new(),
            exclude_kernel: Vec::new(),
            exclude_suite: Vec::new(),
            guests: 1,
            guest_cpus: 1,
            filter: filter.map(str::to_owned),
        }
    }

    fn task(program: &str, tests: &[&str]) -> Task {
        let json = format!(
            r#"{{"reason":"compiler-artifact","manifest_path":"/w/Cargo.toml","target":{{"kind":["test"],"src_path":"/w/tests/{program}.rs"}},"profile":{{"test":true}},"executable":"/t/{program}-0123456789abcdef"}}"#
        );
        let program = guests::programs(&json).unwrap().remove(0);
        Task { program, tests: tests.iter().map(|&test| test.to_owned()).collect(), env: Vec::new() }
    }

    #[test]
    fn a_kernel_gets_the_suites_and_tests_that_were_asked_for() {
        let tasks = [
            task("errno", &["refused", "timeout"]),
            task("mtls_daemon", &["datapath::a"]),
            task("demo", &[]),
        ];
        let ask = |wanted: &str, exclude: &[&str]| {
            let exclude: Vec<_> = exclude.iter().map(|&name| name.to_owned()).collect();
            let share = share(&wanted.parse().unwrap(), &"6.1".parse().unwrap(), &tasks, &exclude)?;
            anyhow::Ok(share.tasks.iter().flat_map(|task| task.tests.clone()).collect::<Vec<_>>())
        };
        assert_eq!(ask("6.1", &[]).unwrap(), ["refused", "timeout", "datapath::a"]);
        assert_eq!(ask("6.1=errno", &["timeout"]).unwrap(), ["refused"]);
        assert_eq!(ask("6.1=datapath", &[]).unwrap(), ["datapath::a"]);
        assert_eq!(ask("6.1=errno/time", &[]).unwrap(), ["timeout"]);
        let error = ask("6.1=errno/tiem", &[]).unwrap_err().to_string();
        assert!(error.contains("`errno/tiem` names no test"), "{error}");
        let error = ask("6.1=errno,recrods", &[]).unwrap_err().to_string();
        assert!(error.contains("no suite `recrods`; there are errno, datapath, demo"), "{error}");
    }

    #[test]
    fn libtest_is_asked_exactly() {
        let units = Phase::new("unit tests", &[]);
        let ask = |exclude: &[&str], filter, chosen: &[&'static str]| {
            let args = args(exclude, filter);
            libtest_args(&units, &args, chosen).iter().map(|&s| s.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(ask(&[], None, &["a"]), Vec::<String>::new());
        assert_eq!(ask(&[], Some("cu"), &["curl"]), ["cu"]);
        assert_eq!(ask(&["curl"], None, &["a"]), ["--exact", "--skip", "curl"]);
        // `--skip curl` alone would also skip `curl_over_ipv6`.
        assert_eq!(ask(&["curl"], Some("cu"), &["curl_over_ipv6"]), ["--exact", "curl_over_ipv6"]);
    }

    #[test]
    fn examples_are_never_asked_for_by_exact_name() {
        let examples = Phase { names: false, ..Phase::new("examples", &[]) };
        assert_eq!(
            libtest_args(&examples, &args(&["curl"], Some("cu")), &["src/lib.rs - curl (line 1)"]),
            ["cu"]
        );
    }

    #[test]
    fn tests_that_could_not_run_are_read_with_their_reason() {
        assert_eq!(
            not_run_lines("a::b\tno kTLS: see\tdocs\n\nc\n"),
            [
                ("a::b".to_owned(), "no kTLS: see\tdocs".to_owned()),
                ("c".to_owned(), "no reason given".to_owned()),
            ]
        );
    }
}
