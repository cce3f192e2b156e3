//! `cargo xtask bench --micro`: instructions that one operation of each micro-benchmark takes, counted by valgrind.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::run::{Cmd, heading};
use crate::{repo, setup};

/// The function of `mtls-daemon/benches/micro/suite.rs` that does nothing but repeat the operation; preparations are
/// outside of it.
const COUNTED: &str = "*repeat_counted*";

/// What is printed and written.
#[derive(Debug, Serialize)]
struct Figures {
    valgrind: String,
    architecture: &'static str,
    benchmarks: Vec<Figure>,
}

#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    instructions_per_operation: u64,
    /// How many operations that is the mean of.
    operations: u64,
}

/// Counts; `json`: a file that gets the figures too.
pub fn run(json: Option<&Path>) -> Result<ExitCode> {
    let root = repo::root()?;
    setup::prepare_micro()?;
    heading("building the micro-benchmarks, with optimisation");
    let program = build(&root)?;
    let out = repo::target_dir(&root)?.join("bench");
    std::fs::create_dir_all(&out).with_context(|| format!("{} cannot be made", out.display()))?;
    heading("counting instructions");
    let valgrind = Cmd::new("valgrind").arg("--version").read()?.trim().to_owned();
    let names = names(&Cmd::new(&program.to_string_lossy()).args(["--bench", "--list"]).read()?)?;
    let width = names.iter().map(String::len).max().unwrap_or_default();
    println!("{:width$} {:>14}", "benchmark", "instructions");
    let mut benchmarks = Vec::new();
    for name in names {
        let figure = count(&program, &name, &out.join("callgrind.out"))?;
        println!("{name:width$} {:>14}", grouped(figure.instructions_per_operation));
        benchmarks.push(figure);
    }
    if let Some(file) = json {
        let figures = Figures { valgrind, architecture: std::env::consts::ARCH, benchmarks };
        let text = serde_json::to_string_pretty(&figures).context("the figures have no JSON form")?;
        std::fs::write(file, text + "\n").with_context(|| format!("{} cannot be written", file.display()))?;
        println!("figures: {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn build(root: &Path) -> Result<PathBuf> {
    let cmd = Cmd::cargo(root).args(["bench", "--package", "mtls-daemon", "--bench", "micro", "--no-run"]);
    // Standard error, where cargo tells its progress, stays on the console.
    let mut command = cmd.args(["--message-format", "json-render-diagnostics"]).into_inner();
    let output = command.stderr(Stdio::inherit()).output().context("cargo cannot be started")?;
    if !output.status.success() {
        bail!("the micro-benchmarks cannot be built ({})", output.status);
    }
    executable(&String::from_utf8_lossy(&output.stdout))
}

/// The benchmark program among cargo's messages.
fn executable(json: &str) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        kind: Vec<String>,
    }
    for line in json.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).context("cargo printed something unexpected")?;
        let is_bench = message.target.is_some_and(|target| target.kind.iter().any(|kind| kind == "bench"));
        if let (Some(executable), true) = (message.executable, is_bench) {
            return Ok(executable);
        }
    }
    bail!("cargo built no benchmark program")
}

/// The names in criterion's list, which has lines such as `policy/allow-exact/10: benchmark`.
fn names(list: &str) -> Result<Vec<String>> {
    let names: Vec<_> =
        list.lines().filter_map(|line| line.strip_suffix(": benchmark")).map(str::to_owned).collect();
    if names.is_empty() {
        bail!("the benchmark program lists no benchmarks: {list:?}");
    }
    Ok(names)
}

fn count(program: &Path, name: &str, out: &Path) -> Result<Figure> {
    let mut file = std::ffi::OsString::from("--callgrind-out-file=");
    file.push(out);
    let printed = Cmd::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(file)
        .arg(program)
        .args(["--count", name])
        .read()?;
    let profile =
        std::fs::read_to_string(out).with_context(|| format!("{} cannot be read", out.display()))?;
    figure(name, &printed, &profile)
}

/// `printed`: how many operations the benchmark says were counted; `profile`: what callgrind counted.
fn figure(name: &str, printed: &str, profile: &str) -> Result<Figure> {
    let operations: u64 = printed.trim().parse().with_context(|| format!("{name} printed {printed:?}"))?;
    let instructions = total(profile)?;
    let Some(mean) = instructions.checked_div(operations).filter(|mean| *mean > 0) else {
        bail!("valgrind counted {instructions} instructions of {operations} operations of {name}");
    };
    Ok(Figure { name: name.to_owned(), instructions_per_operation: mean, operations })
}

/// The sum in callgrind's output.
fn total(profile: &str) -> Result<u64> {
    let events = profile.lines().find_map(|line| line.strip_prefix("events:")).map(str::trim);
    if events != Some("Ir") {
        bail!("valgrind counted {events:?} and not instructions (Ir) alone");
    }
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals:"));
    totals.and_then(|sum| sum.trim().parse().ok()).context("valgrind wrote no sum")
}

/// With a comma between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchmark_program_is_the_one_of_kind_bench() {
        let library =
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"]},"executable":null,"fresh":true}"#;
        let bench = r#"{"reason":"compiler-artifact","target":{"kind":["bench"]},"executable":"/t/micro-1"}"#;
        let end = r#"{"reason":"build-finished","success":true}"#;
        let found = executable(&format!("{library}\n{bench}\n{end}\n")).unwrap();
        assert_eq!(found, PathBuf::from("/t/micro-1"));
        assert!(executable(&format!("{library}\n{end}\n")).is_err());
    }

    #[test]
    fn names_are_taken_from_criterions_list() {
        let list = "a/b/10: benchmark\nc: benchmark\n\n2 tests, 2 benchmarks\n";
        assert_eq!(names(list).unwrap(), ["a/b/10", "c"]);
        assert!(names("no such option\n").is_err());
    }

    #[test]
    fn the_sum_is_that_of_instructions_and_of_nothing_else() {
        let profile = "version: 1\nevents: Ir\nfn=(1) x\n1 500\ntotals: 123456\n";
        assert_eq!(total(profile).unwrap(), 123_456);
        assert!(total(&profile.replace("Ir", "Ir Dr")).is_err());
        assert!(total("events: Ir\n").is_err());
    }

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!([1, 999, 1_000, 12_345_678].map(grouped), ["1", "999", "1,000", "12,345,678"]);
    }

    #[test]
    fn a_figure_is_the_mean_and_nothing_counted_is_an_error() {
        let profile = |total: u64| format!("events: Ir\ntotals: {total}\n");
        let mean = figure("x", "50\n", &profile(5_020)).unwrap();
        assert_eq!((mean.instructions_per_operation, mean.operations), (100, 50));
        for (printed, total) in [("50\n", 0), ("0\n", 5_020), ("what?\n", 5_020)] {
            let error = format!("{:#}", figure("x", printed, &profile(total)).unwrap_err());
            assert!(error.contains('x'), "{error}");
        }
    }
}
