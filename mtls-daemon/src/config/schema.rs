//! The published JSON schema (`config.schema.json`), for editors and other checkers.

/// The JSON schema of the main file; a drop-in holds its `workloads`, `directory` and `policy` only.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(super::raw::Document).to_value()
}

#[cfg(test)]
mod tests {
    /// After a change of the document: `MTLSD_BLESS=1 cargo test -p mtls-daemon published_schema`.
    #[test]
    fn the_published_schema_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.schema.json");
        let current = format!("{}\n", serde_json::to_string_pretty(&super::schema()).unwrap());
        if std::env::var_os("MTLSD_BLESS").is_some() {
            std::fs::write(path, &current).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap();
        assert_eq!(published, current, "run: MTLSD_BLESS=1 cargo test -p mtls-daemon published_schema");
    }
}
