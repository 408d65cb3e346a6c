//! The demo: every paper crate trains in miniature, and one page shows what came out.
//!
//! A paper's binary answers `demo --out FOLDER` by writing `FOLDER/index.html` and `FOLDER/demo.json`. It runs in
//! the development profile, the one the tests use, so nothing is compiled twice.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::html::{element, escape, relocate, styles};
use crate::process;
use crate::workspace::{Package, Workspace};

/// What one paper's demo left behind.
struct Outcome {
    name: String,
    title: String,
    ok: bool,
    seconds: f64,
    /// The page and the summary, if they were written.
    result: Result<(String, Value)>,
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
    std::fs::create_dir_all(&out)?;
    std::fs::write(&index, page(&outcomes)?).with_context(|| index.display().to_string())?;
    println!();
    for outcome in &outcomes {
        let verdict = match &outcome.result {
            Ok(_) if outcome.ok => "all claims hold".to_owned(),
            Ok(_) => "FAILED: see the page".to_owned(),
            Err(error) => format!("FAILED: {error:#}"),
        };
        println!("{:<12} {:>5.0} s  {verdict}", outcome.name, outcome.seconds);
    }
    println!("{}", index.display());
    Ok(outcomes.iter().all(|outcome| outcome.ok && outcome.result.is_ok()))
}

fn one(workspace: &Workspace, package: &Package, out: &Path) -> Result<Outcome> {
    let folder = out.join(&package.name);
    // A page of an earlier run must not pass for this one's.
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut command = process::cargo(&workspace.root);
    command.args(["run", "--quiet", "-p", &package.name, "--", "demo", "--out"]).arg(&folder);
    println!("{}", process::describe(&command));
    let start = Instant::now();
    let ok = process::status(&mut command)?;
    let result = read(&folder);
    // A process that ends well but says that an expectation was missed has not done its job either.
    let ok = ok && result.as_ref().is_ok_and(|(_, summary)| missed(summary).is_empty());
    Ok(Outcome {
        name: package.name.clone(),
        title: package.paper().map_or_else(String::new, |paper| paper.title.clone()),
        ok,
        seconds: start.elapsed().as_secs_f64(),
        result,
    })
}

fn read(folder: &Path) -> Result<(String, Value)> {
    let (page, summary) = (folder.join("index.html"), folder.join("demo.json"));
    let html = std::fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let text = std::fs::read_to_string(&summary).with_context(|| summary.display().to_string())?;
    Ok((html, serde_json::from_str(&text).with_context(|| summary.display().to_string())?))
}

/// Expectations of the summary whose `ok` is false.
fn missed(summary: &Value) -> Vec<&Value> {
    let list = summary["expectations"].as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter(|expectation| expectation["ok"] == Value::Bool(false)).collect()
}

/// One page with a table on top and the page of each paper below.
fn page(outcomes: &[Outcome]) -> Result<String> {
    let (mut style, mut rows, mut sections) = (BTreeSet::new(), String::new(), String::new());
    for outcome in outcomes {
        let (name, title) = (escape(&outcome.name), escape(&outcome.title));
        let verdict = if outcome.ok { "all claims hold" } else { "FAILED" };
        writeln!(
            rows,
            "<tr><td><a href=\"#{name}\">{name}</a></td><td>{title}</td><td>{:.0} s</td><td>{verdict}</td></tr>",
            outcome.seconds
        )?;
        let body = match &outcome.result {
            Ok((html, _)) => {
                style.extend(styles(html).into_iter().map(str::to_owned));
                let body = element(html, "main").or_else(|| element(html, "body"));
                relocate(body.context("the demo page has neither <main> nor <body>")?, &outcome.name)
            }
            Err(error) => format!("<p>No page was written: {}</p>", escape(&format!("{error:#}"))),
        };
        writeln!(sections, "<section id=\"{name}\">\n{body}\n</section>")?;
    }
    let style = style.into_iter().collect::<Vec<_>>().join("\n");
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Demo</title>\n\
         <style>\n{style}\nsection {{ border-top: 3px solid #888; margin-top: 2rem; }}\n\
         table.demo td, table.demo th {{ text-align: left; padding-right: 1.5rem; }}\n</style>\n</head>\n<body>\n\
         <h1>Demo</h1>\n<table class=\"demo\">\n<tr><th>paper</th><th>title</th><th>time</th><th>claims</th></tr>\n\
         {rows}</table>\n{sections}</body>\n</html>\n"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_holds_every_paper_and_its_failures() {
        let outcome = |name: &str, ok, result| Outcome {
            name: name.to_owned(),
            title: "A <title>".to_owned(),
            ok,
            seconds: 2.0,
            result,
        };
        let html = "<html><head><style>b{}</style></head><body><img src=\"x.png\"></body></html>".to_owned();
        let page = page(&[
            outcome("one", true, Ok((html, json!({})))),
            outcome("two", false, Err(anyhow::anyhow!("gone & lost"))),
        ])
        .unwrap();
        for piece in ["b{}", "src=\"one/x.png\"", "A &lt;title&gt;", "gone &amp; lost", "FAILED"] {
            assert!(page.contains(piece), "{piece}");
        }
    }

    #[test]
    fn missed_expectations_are_found() {
        let summary = json!({"expectations": [{"ok": true}, {"ok": false, "name": "x"}]});
        assert_eq!(missed(&summary).len(), 1);
        assert!(missed(&json!({})).is_empty());
    }
}
