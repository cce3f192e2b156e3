//! What mtlsd can do on this kernel.

use super::Daemon;

impl Daemon {
    /// Whether `mtlsd status` has this ability.
    ///
    /// # Errors
    /// If not: its own words why.
    ///
    /// # Panics
    /// If the daemon does not answer or does not know the ability.
    pub fn ability(&self, name: &str) -> Result<(), String> {
        let status = self.ask(&["status"]);
        let list = status["abilities"].as_array().unwrap_or_else(|| panic!("no abilities in {status}"));
        let found = list.iter().find(|ability| ability["name"] == name);
        let ability = found.unwrap_or_else(|| panic!("no ability {name} in {status}"));
        if ability["available"] == true {
            return Ok(());
        }
        Err(ability["detail"].as_str().unwrap_or("no detail").to_owned())
    }
}
