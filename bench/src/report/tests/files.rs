//! What is read and written, and what is said if that cannot be.

use std::fs;

use super::super::testing::{Directory, empty, full};
use super::super::{write, write_run};

#[test]
fn the_files_are_written_and_their_links_lead_somewhere() {
    let directory = Directory::new();
    let run = directory.path().join("run.json");
    fs::write(&run, serde_json::to_string(&full()).unwrap()).unwrap();
    let report = directory.path().join("new/report");
    write(&run, &report).unwrap();
    let text = fs::read_to_string(report.join("report.md")).unwrap();
    let links: Vec<&str> = text.split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0).collect();
    assert_eq!(links.len(), 16);
    assert!(links.iter().all(|link| report.join(link).is_file()), "{links:?}");
    assert!(fs::read_to_string(report.join("report.html")).unwrap().matches("<svg ").count() == links.len());
}

fn complaint(content: &str) -> String {
    let directory = Directory::new();
    let run = directory.path().join("run.json");
    fs::write(&run, content).unwrap();
    let error = write(&run, &directory.path().join("report")).unwrap_err();
    assert!(!directory.path().join("report").exists());
    format!("{error:#}")
}

#[test]
fn a_wrong_file_is_named_with_reason_and_mend() {
    let cases = [
        ("{\"format\": 1,", "run.json is not JSON: give the file that", "line 1 column 13"),
        ("", "run.json is not JSON: give the file that", "EOF"),
        ("[1]", "run.json is no run of the benchmark, it has no `format`", "give the file that"),
        ("{\"format\": 2}", "run.json has format 2, and this program reads format 1", "make the report with"),
        ("{\"format\": \"x\"}", "run.json has format \"x\"", "or run it again"),
        (
            "{\"format\": 1}",
            "run.json is no run of the benchmark: give the file that",
            "missing field `environment`",
        ),
    ];
    for (content, what, reason) in cases {
        let error = complaint(content);
        assert!(error.contains(what) && error.contains(reason), "{error}");
    }
    let error = format!("{:#}", write("/nowhere/run.json".as_ref(), "/nowhere".as_ref()).unwrap_err());
    assert!(
        error.contains("cannot read /nowhere/run.json: give the file") && error.contains("No such file"),
        "{error}"
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_named_with_reason_and_mend() {
    let directory = Directory::new();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = format!("{:#}", write_run(&empty(), &file.join("report")).unwrap_err());
    assert!(
        error.contains("file/report: name one that you may write to") && error.contains("Not a directory"),
        "{error}"
    );
    fs::create_dir(directory.path().join("report.md")).unwrap();
    let error = format!("{:#}", write_run(&empty(), directory.path()).unwrap_err());
    assert!(error.contains("report.md: free the disk") && error.contains("Is a directory"), "{error}");
}
