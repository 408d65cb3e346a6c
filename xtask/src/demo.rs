//! The demo: every paper crate trains in miniature, and one page shows what came out.
//!
//! A paper's binary answers `demo --out FOLDER` by training its samples and writing `FOLDER/demo.json`, which names
//! the page of each. It runs in the development profile, the one the tests use, so nothing is compiled twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::html::{element, escape, relocate, styles};
use crate::process;
use crate::workspace::{Package, Workspace};

/// `demo.json`.
#[derive(Debug, Deserialize)]
struct Summary {
    title: String,
    parts: Vec<Part>,
}

/// One sample that was trained.
#[derive(Debug, Deserialize)]
struct Part {
    name: String,
    /// What the sample asks, for a reader.
    question: String,
    /// Its page, relative to `demo.json`.
    page: String,
    seconds: f64,
    values: BTreeMap<String, f64>,
    expectations: Vec<Expectation>,
}

/// A bound on a metric and what was found.
#[derive(Debug, Deserialize)]
struct Expectation {
    metric: String,
    bound: String,
    value: Option<f64>,
    ok: bool,
}

/// What one paper's demo left behind.
struct Outcome {
    name: String,
    title: String,
    /// The process ended well.
    ended: bool,
    seconds: f64,
    /// The summary, and the page of each part.
    result: Result<(Summary, Vec<String>)>,
}

impl Outcome {
    /// Expectations met, and expectations in all.
    fn claims(&self) -> (usize, usize) {
        let parts = self.result.as_ref().map_or(&[][..], |(summary, _)| summary.parts.as_slice());
        let all = || parts.iter().flat_map(|part| &part.expectations);
        (all().filter(|expectation| expectation.ok).count(), all().count())
    }

    /// A demo that claims nothing has not shown anything.
    fn ok(&self) -> bool {
        let (met, all) = self.claims();
        self.ended && self.result.is_ok() && all > 0 && met == all
    }

    fn verdict(&self) -> String {
        let (met, all) = self.claims();
        match &self.result {
            Err(error) => format!("FAILED: {error:#}"),
            Ok(_) if self.ok() => format!("all {all} claims hold"),
            Ok(_) if !self.ended && met == all => "FAILED: the program ended with an error".to_owned(),
            Ok(_) => format!("FAILED: {met} of {all} claims hold"),
        }
    }
}

/// Runs the demo of `paper`, or of all. Returns whether every claim held.
pub(crate) fn run(workspace: &Workspace, paper: Option<&str>, out: Option<PathBuf>) -> Result<bool> {
    let papers: Vec<&Package> = match paper {
        Some(name) => vec![workspace.paper(name)?],
        None => workspace.papers().map(|(package, _)| package).collect(),
    };
    if papers.is_empty() {
        bail!("no crate of this workspace has [package.metadata.paper]");
    }
    let out = match out {
        Some(out) => std::path::absolute(out)?,
        None => workspace.root.join("runs/demo"),
    };
    let mut outcomes = Vec::new();
    for package in papers {
        outcomes.push(one(workspace, package, &out)?);
    }
    let index = out.join("index.html");
    std::fs::write(&index, page(&outcomes)?).with_context(|| index.display().to_string())?;
    println!();
    for outcome in &outcomes {
        println!("{:<12} {:>5.0} s  {}", outcome.name, outcome.seconds, outcome.verdict());
    }
    println!("{}", index.display());
    Ok(outcomes.iter().all(Outcome::ok))
}

fn one(workspace: &Workspace, package: &Package, out: &Path) -> Result<Outcome> {
    let folder = out.join(&package.name);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    // The summary of an earlier run must not pass for this one's.
    let summary = folder.join("demo.json");
    if summary.exists() {
        std::fs::remove_file(&summary).with_context(|| summary.display().to_string())?;
    }
    let mut command = process::cargo(&workspace.root);
    command.args(["run", "--quiet", "-p", &package.name, "--", "demo", "--out"]).arg(&folder);
    println!("{}", process::describe(&command));
    let start = Instant::now();
    let ended = process::status(&mut command)?;
    Ok(Outcome {
        name: package.name.clone(),
        title: package.paper().map_or_else(String::new, |paper| paper.title.clone()),
        ended,
        seconds: start.elapsed().as_secs_f64(),
        result: read(&folder),
    })
}

fn read(folder: &Path) -> Result<(Summary, Vec<String>)> {
    let path = folder.join("demo.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let summary: Summary = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let mut pages = Vec::new();
    for part in &summary.parts {
        let page = Path::new(&part.page);
        let inside = page.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        ensure!(inside, "{}: the page {} is not inside the folder", path.display(), part.page);
        let page = folder.join(page);
        pages.push(std::fs::read_to_string(&page).with_context(|| page.display().to_string())?);
    }
    Ok((summary, pages))
}

/// One page with a table of claims on top and the page of each sample below.
fn page(outcomes: &[Outcome]) -> Result<String> {
    let (mut style, mut rows, mut sections) = (BTreeSet::new(), String::new(), String::new());
    for outcome in outcomes {
        let name = escape(&outcome.name);
        writeln!(
            rows,
            "<tr><th><a href=\"#{name}\">{name}</a></th><th colspan=\"3\">{}</th><th>{:.0} s</th><th>{}</th></tr>",
            escape(&outcome.title),
            outcome.seconds,
            escape(&outcome.verdict()),
        )?;
        writeln!(sections, "<section class=\"paper\" id=\"{name}\">")?;
        match &outcome.result {
            Ok((summary, pages)) => {
                writeln!(sections, "<h1>{}</h1>", escape(&summary.title))?;
                for (part, html) in summary.parts.iter().zip(pages) {
                    rows += &claims(part)?;
                    style.extend(styles(html).into_iter().map(str::to_owned));
                    sections += &section(&outcome.name, part, html)?;
                }
            }
            Err(error) => {
                writeln!(sections, "<p>Nothing was written: {}</p>", escape(&format!("{error:#}")))?;
            }
        }
        writeln!(sections, "</section>")?;
    }
    let style = style.into_iter().collect::<Vec<_>>().join("\n");
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Demo</title>\n\
         <style>\n{style}\nsection.paper {{ border-top: 3px solid #888; margin-top: 2rem; }}\n\
         table.demo td, table.demo th {{ text-align: left; padding-right: 1.5rem; }}\n\
         .missed {{ color: #b00020; font-weight: 600; }}\n</style>\n</head>\n<body>\n\
         <h1>Demo</h1>\n<table class=\"demo\">\n<tr><th></th><th>metric</th><th>found</th><th>claimed</th>\
         <th>time</th><th></th></tr>\n{rows}</table>\n{sections}</body>\n</html>\n"
    ))
}

/// The table rows of one sample: what was claimed and what was found.
fn claims(part: &Part) -> Result<String> {
    let mut rows = String::new();
    for expectation in &part.expectations {
        let (class, verdict) = if expectation.ok { ("ok", "ok") } else { ("missed", "MISSED") };
        writeln!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td></td><td class=\"{class}\">{verdict}</td></tr>",
            escape(&part.name),
            escape(&expectation.metric),
            expectation.value.map_or_else(|| "missing".to_owned(), |value| format!("{value:.4}")),
            escape(&expectation.bound),
        )?;
    }
    Ok(rows)
}

/// The page of one sample, without its frame.
fn section(paper: &str, part: &Part, html: &str) -> Result<String> {
    let body = element(html, "main").or_else(|| element(html, "body"));
    let body = body.with_context(|| format!("{} has neither <main> nor <body>", part.page))?;
    let folder = match part.page.rsplit_once('/') {
        Some((folder, _)) => format!("{paper}/{folder}"),
        None => paper.to_owned(),
    };
    Ok(format!(
        "<section>\n<h2>{}: {}</h2>\n<p>{} numbers in {:.0} s; <a href=\"{paper}/{}\">the page alone</a></p>\n\
         {}\n</section>\n",
        escape(&part.name),
        escape(&part.question),
        part.values.len(),
        part.seconds,
        escape(&part.page),
        relocate(body, &folder),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = r#"{"title": "T", "seconds": 3.0, "parts": [{"name": "sample", "question": "Does it?",
        "page": "sample/report.html", "seconds": 2.0, "values": {"top1": 0.5},
        "expectations": [{"metric": "top1", "bound": "at least 0.4", "value": 0.5, "ok": true}]}]}"#;

    fn outcome(ok: bool) -> Outcome {
        let summary = SUMMARY.replace("true", if ok { "true" } else { "false" });
        let html = "<html><head><style>b{}</style></head><body><img src=\"x.png\"></body></html>".to_owned();
        Outcome {
            name: "one".to_owned(),
            title: "A <title>".to_owned(),
            ended: true,
            seconds: 2.0,
            result: Ok((serde_json::from_str(&summary).unwrap(), vec![html])),
        }
    }

    #[test]
    fn the_page_holds_every_paper_and_its_failures() {
        let mut lost = outcome(true);
        lost.result = Err(anyhow::anyhow!("gone & lost"));
        let page = page(&[outcome(true), outcome(false), lost]).unwrap();
        for piece in
            ["b{}", "src=\"one/sample/x.png\"", "A &lt;title&gt;", "gone &amp; lost", "MISSED", "Does it?"]
        {
            assert!(page.contains(piece), "{piece}");
        }
    }

    #[test]
    fn a_demo_must_end_well_and_meet_at_least_one_claim() {
        assert!(outcome(true).ok());
        assert!(!outcome(false).ok());
        assert!(!Outcome { ended: false, ..outcome(true) }.ok());
        let mut silent = outcome(true);
        if let Ok((summary, _)) = &mut silent.result {
            summary.parts.clear();
        }
        assert!(!silent.ok());
    }

    #[test]
    fn pages_outside_the_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sample")).unwrap();
        std::fs::write(folder.path().join("sample/report.html"), "<body></body>").unwrap();
        std::fs::write(folder.path().join("demo.json"), SUMMARY).unwrap();
        assert!(read(folder.path()).is_ok());
        std::fs::write(folder.path().join("demo.json"), SUMMARY.replace("sample/report", "../report"))
            .unwrap();
        assert!(read(folder.path()).is_err());
    }
}
