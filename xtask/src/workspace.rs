//! What `cargo metadata` knows: crates, their edges, and which of them implement a paper.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process;

/// The workspace this program belongs to.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Its top folder.
    pub(crate) root: PathBuf,
    /// Its members, by name.
    pub(crate) members: BTreeMap<String, Package>,
}

/// A crate.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) id: String,
    pub(crate) license: Option<String>,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

/// An edge as a manifest states it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `dev`, `build`, or nothing for a normal one.
    pub(crate) kind: Option<String>,
    pub(crate) optional: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Metadata {
    paper: Option<Paper>,
}

/// `[package.metadata.paper]`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Paper {
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) datasets: Vec<String>,
    /// Programs besides the one that is called as the crate.
    #[serde(default)]
    programs: Vec<String>,
}

/// All packages and the graph between them.
#[derive(Debug, Deserialize)]
pub(crate) struct Graph {
    pub(crate) packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDep>,
}

#[derive(Debug, Deserialize)]
struct NodeDep {
    pkg: String,
    dep_kinds: Vec<DepKind>,
}

#[derive(Debug, Deserialize)]
struct DepKind {
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Members {
    packages: Vec<Package>,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().context("the crate lies in a workspace")?.to_path_buf();
        let members: Members = metadata(&root, &["--no-deps"])?;
        let members = members.packages.into_iter().map(|p| (p.name.clone(), p)).collect();
        Ok(Self { root, members })
    }

    /// Crates with `[package.metadata.paper]`, by name.
    pub(crate) fn papers(&self) -> impl Iterator<Item = (&Package, &Paper)> {
        self.members.values().filter_map(|package| package.paper().map(|paper| (package, paper)))
    }

    /// The paper crate called `name`.
    pub(crate) fn paper(&self, name: &str) -> Result<&Package> {
        let mut papers = self.papers().map(|(package, _)| package);
        papers.find(|package| package.name == name).with_context(|| {
            let names: Vec<_> = self.papers().map(|(package, _)| package.name.as_str()).collect();
            format!("no paper crate is called {name}; there are: {}", names.join(", "))
        })
    }

    /// The crate whose program is called `name`: a paper crate's own, or another that it lists.
    pub(crate) fn program(&self, name: &str) -> Result<&Package> {
        let mut papers = self.papers();
        match papers.find(|(_, paper)| paper.programs.iter().any(|program| program == name)) {
            Some((package, _)) => Ok(package),
            None => self.paper(name),
        }
    }

    /// The graph with all external packages.
    pub(crate) fn graph(&self) -> Result<Graph> {
        metadata(&self.root, &[])
    }
}

impl Package {
    pub(crate) fn paper(&self) -> Option<&Paper> {
        self.metadata.as_ref()?.paper.as_ref()
    }

    /// The folder of the manifest.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }
}

impl Graph {
    /// Names of everything `package` needs to be built, directly or not; tests of its own not counted.
    pub(crate) fn reachable(&self, package: &Package) -> BTreeSet<&str> {
        let nodes: BTreeMap<&str, &Node> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let names: BTreeMap<&str, &str> =
            self.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
        let mut seen = BTreeSet::new();
        let mut open = vec![package.id.as_str()];
        while let Some(id) = open.pop() {
            let Some(node) = nodes.get(id) else { continue };
            for dep in &node.deps {
                let built = dep.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"));
                if built && seen.insert(dep.pkg.as_str()) {
                    open.push(&dep.pkg);
                }
            }
        }
        seen.iter().filter_map(|id| names.get(id).copied()).collect()
    }
}

fn metadata<T: for<'de> Deserialize<'de>>(root: &Path, more: &[&str]) -> Result<T> {
    let mut command = process::cargo(root);
    command.args(["metadata", "--format-version", "1"]).args(more);
    let output = command.output().context("cannot start cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("the answer of cargo metadata")
}
