//! Where a weight file is: at a path, or on a hub.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{Error, Result};

/// What addresses on a hub start with.
const SCHEME: &str = "hf:";

/// The revision that an address without one means.
const MAIN: &str = "main";

/// Where a weight file is. Parsed from text: `hf:OWNER/NAME/FILE`, with `@REVISION` behind it or without, is a file
/// on the hub; anything else is a path.
///
/// ```
/// use vision_weights::Source;
///
/// let source: Source = "hf:timm/resnet50.a1_in1k/model.safetensors@v1.0".parse()?;
/// let Source::Hub(file) = source else { unreachable!() };
/// assert_eq!((file.repo(), file.file(), file.revision()), ("timm/resnet50.a1_in1k", "model.safetensors", "v1.0"));
/// assert_eq!("runs/best.pth".parse::<Source>()?, Source::Path("runs/best.pth".into()));
/// # Ok::<(), vision_weights::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A file of this machine.
    Path(PathBuf),
    /// A file of a hub. Feature `hub` brings it here, see `hub::fetch`.
    Hub(HubFile),
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix(SCHEME) {
            Some(address) => HubFile::parse(address).map(Self::Hub),
            None => Ok(Self::Path(text.into())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Hub(file) => file.fmt(f),
        }
    }
}

/// A file in a repository of a hub, at a revision.
///
/// Its parts name files and folders of the cache, so they are checked when one is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubFile {
    repo: String,
    file: String,
    revision: String,
}

impl HubFile {
    /// `repo` is `OWNER/NAME`, `file` a path in it, `revision` a branch, a tag or a commit.
    ///
    /// # Errors
    /// [`Error::Address`] when one of them cannot be that.
    pub fn new(repo: &str, file: &str, revision: &str) -> Result<Self> {
        let this = Self { repo: repo.to_owned(), file: file.to_owned(), revision: revision.to_owned() };
        match this.problem() {
            None => Ok(this),
            Some(problem) => Err(Error::Address { address: this.to_string(), problem }),
        }
    }

    fn parse(address: &str) -> Result<Self> {
        let (path, revision) = address.rsplit_once('@').unwrap_or((address, MAIN));
        let mut parts = path.splitn(3, '/');
        let (Some(owner), Some(name), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
            let problem = "it has not the form hf:OWNER/NAME/FILE";
            return Err(Error::Address { address: format!("{SCHEME}{address}"), problem });
        };
        Self::new(&format!("{owner}/{name}"), file, revision)
    }

    /// The repository, `OWNER/NAME`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The file's path in the repository.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    fn problem(&self) -> Option<&'static str> {
        let word = |part: &str| {
            let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && part.len() <= 96 && part.chars().all(sound) && !part.contains("..")
        };
        let owner_and_name = self.repo.split_once('/');
        let edge = |part: &str| part.starts_with(['-', '.']) || part.ends_with(['-', '.']);
        if owner_and_name.is_none_or(|(owner, name)| !word(owner) || !word(name)) {
            Some("the repository is not OWNER/NAME of letters, digits and `-_.`")
        } else if self.repo.split('/').any(edge) || self.repo.contains("--") {
            Some("owner and name of a repository have no `--`, and no `-` or `.` at an end")
        } else if !is_relative(&self.file) {
            Some("the file is no path inside the repository")
        } else if !is_relative(&self.revision) {
            Some("the revision is no branch, tag or commit")
        } else {
            None
        }
    }
}

impl fmt::Display for HubFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.repo, self.file)?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Whether a path with slashes stays inside the folder it is joined to, on any system.
fn is_relative(path: &str) -> bool {
    let sound = |part: &str| {
        let odd = |c: char| c.is_control() || "\\:@".contains(c);
        !part.is_empty() && part != "." && part != ".." && part.len() <= 255 && !part.contains(odd)
    };
    path.split('/').all(sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Source> {
        text.parse()
    }

    #[test]
    fn addresses() {
        let Source::Hub(file) = parse("hf:a/b/sub/c d.pth@refs/pr/1").unwrap() else { panic!() };
        assert_eq!((file.repo(), file.file(), file.revision()), ("a/b", "sub/c d.pth", "refs/pr/1"));
        assert_eq!(file.to_string(), "hf:a/b/sub/c d.pth@refs/pr/1");
        let Source::Hub(file) = parse("hf:a/b/c").unwrap() else { panic!() };
        assert_eq!((file.revision(), file.to_string().as_str()), ("main", "hf:a/b/c"));
        let path = parse("weights/hf:a.pth").unwrap();
        assert_eq!(path, Source::Path("weights/hf:a.pth".into()));
        assert_eq!(path.to_string(), "weights/hf:a.pth");
    }

    #[test]
    fn nothing_leaves_the_cache() {
        for bad in [
            "hf:",
            "hf:a",
            "hf:a/b",
            "hf:a/b/",
            "hf:/b/c",
            "hf:a//c",
            "hf:a/b//c",
            "hf:a/b/../c",
            "hf:a/../c",
            "hf:../b/c",
            "hf:a--b/c/d",
            "hf:-a/b/c",
            "hf:a/b./c",
            "hf:a/b/c\\d",
            "hf:a/b/C:x",
            "hf:a/b/c\nd",
            "hf:a/b/c@",
            "hf:a/b/c@..",
            "hf:a/b/c@/x",
            "hf:a/b/c@x/../../y",
            "hf:a b/c/d",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(
                matches!(&error, Error::Address { address, .. } if address.starts_with("hf:")),
                "{bad}: {error}"
            );
        }
        assert!(HubFile::new("a/b/c", "d", "main").is_err());
        assert!(HubFile::new("a/b", "x@y", "main").is_err());
    }
}
