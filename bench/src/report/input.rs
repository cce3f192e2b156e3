//! Reading a run, with errors that say what to do.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::result::{FORMAT, Run};

const MEND: &str = "give the file that `mtls-bench run --json` wrote, whole";

/// The run in a file.
///
/// The number of the format is looked at first: a file of another format is likely to have other fields, and an
/// error that names a field would not help.
pub fn read(path: &Path) -> Result<Run> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}: {MEND}"))?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("{shown} is not JSON: {MEND}"))?;
    let Some(format) = value.get("format") else {
        bail!("{shown} is no run of the benchmark, it has no `format`: {MEND}");
    };
    if format.as_u64() != Some(u64::from(FORMAT)) {
        bail!(
            "{shown} has format {format}, and this program reads format {FORMAT}: \
             make the report with the mtls-bench that made the run, or run it again"
        );
    }
    serde_json::from_str(&text).with_context(|| format!("{shown} is no run of the benchmark: {MEND}"))
}
