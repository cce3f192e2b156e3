//! Links between the documents.

use std::path::Path;

use crate::{Page, pages, root};

/// Links of a page to files and headings, with their line: what stands in `](…)`, outside of fences. Not those to other sites.
fn links(page: &Page) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in (1..).zip(page.text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            // Without code, which may look like one.
            let line: String = line.split('`').step_by(2).collect();
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            let ours = targets.map(|(target, _)| target).filter(|target| !target.contains("://"));
            found.extend(ours.map(|target| (number, target.to_owned())));
        }
    }
    found
}

/// The anchors of a page, as the sites that show Markdown make them of headings.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

fn check(page: &Page, target: &str) -> Result<(), String> {
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let directory = Path::new(&page.path).parent().unwrap_or(Path::new(""));
    let path = root().join(directory).join(file);
    let is_page = |path: &Path| path.extension().is_some_and(|extension| extension == "md");
    let text = match file {
        "" => page.text.clone(),
        _ if path.is_dir() || path.is_file() && !is_page(&path) => return Ok(()),
        _ => std::fs::read_to_string(&path).map_err(|error| error.to_string())?,
    };
    match anchor {
        Some(anchor) if !anchors(&text).iter().any(|one| one == anchor) => {
            Err(format!("no heading #{anchor}"))
        }
        _ => Ok(()),
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for page in pages().unwrap() {
        for (line, target) in links(&page) {
            if let Err(error) = check(&page, &target) {
                wrong.push(format!("{}:{line}: {target}: {error}", page.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_link_to_nothing_is_found() {
    let page = Page {
        path: "docs/x.md".into(),
        text: "# A `b`, c\n[`d`](../README.md#uninstall) [e](https://f) `[g](h)`\n".into(),
    };
    assert_eq!(links(&page), [(2, "../README.md#uninstall".to_owned())]);
    for good in ["../README.md#uninstall", "#a-b-c", "policy.md", "../deploy", "../Cargo.toml"] {
        assert_eq!(check(&page, good), Ok(()), "{good}");
    }
    for wrong in ["../README.md#no-such", "#b", "nothing.md"] {
        assert!(check(&page, wrong).is_err(), "{wrong}");
    }
}
