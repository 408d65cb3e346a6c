//! Patterns of dotted names, and what they become.

use crate::{Error, Result};

/// One row of a table: names of one form get another.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    from: Vec<Piece>,
    to: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Word(String),
    /// `*`: any segment.
    One,
    /// `**`: all segments that are left, one at least.
    Rest,
}

impl Row {
    pub(crate) fn new(from: &str, to: &str) -> Result<Self> {
        let wrong = |problem| Error::Rule { rule: format!("`{from}` to `{to}`"), problem };
        let row = Self { from: parse(from), to: parse(to) };
        for side in [&row.from, &row.to] {
            let before_last = side.split_last().map_or(&[] as &[Piece], |(_, before)| before);
            if before_last.contains(&Piece::Rest) {
                return Err(wrong("`**` stands for the end of a name"));
            }
            if side
                .iter()
                .any(|piece| matches!(piece, Piece::Word(word) if word.is_empty() || word.contains('*')))
            {
                return Err(wrong("a segment is empty, or part of it is a `*`"));
            }
        }
        if !stars(&row.from).eq(stars(&row.to)) {
            return Err(wrong("both sides must have the same stars in the same order"));
        }
        Ok(row)
    }

    /// The new name; `None` when the name has another form.
    pub(crate) fn apply(&self, name: &str) -> Option<String> {
        let mut caught = catch(&self.from, name)?.into_iter();
        let segments: Option<Vec<&str>> = self
            .to
            .iter()
            .map(|piece| match piece {
                Piece::Word(word) => Some(word.as_str()),
                Piece::One | Piece::Rest => caught.next(),
            })
            .collect();
        Some(segments?.join("."))
    }

    pub(crate) fn inverse(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone() }
    }

    /// Whether every name that `other` results in has the form of this row's results, too.
    pub(crate) fn results_cover(&self, other: &Self) -> bool {
        covers(&self.to, &other.to)
    }

    pub(crate) fn describe(&self) -> String {
        format!("`{}` to `{}`", text(&self.from), text(&self.to))
    }
}

fn parse(pattern: &str) -> Vec<Piece> {
    let piece = |segment: &str| match segment {
        "*" => Piece::One,
        "**" => Piece::Rest,
        word => Piece::Word(word.to_owned()),
    };
    pattern.split('.').map(piece).collect()
}

fn text(pieces: &[Piece]) -> String {
    let word = |piece: &Piece| match piece {
        Piece::Word(word) => word.clone(),
        Piece::One => "*".to_owned(),
        Piece::Rest => "**".to_owned(),
    };
    pieces.iter().map(word).collect::<Vec<_>>().join(".")
}

fn stars(pieces: &[Piece]) -> impl Iterator<Item = &Piece> {
    pieces.iter().filter(|piece| !matches!(piece, Piece::Word(_)))
}

/// What the stars of a pattern stand for in a name.
fn catch<'n>(pattern: &[Piece], name: &'n str) -> Option<Vec<&'n str>> {
    let mut left = Some(name);
    let mut caught = Vec::new();
    for piece in pattern {
        let here = left?;
        let (segment, after) = here.split_once('.').map_or((here, None), |(s, after)| (s, Some(after)));
        match piece {
            Piece::Word(word) if word == segment => left = after,
            Piece::Word(_) => return None,
            Piece::One => {
                caught.push(segment);
                left = after;
            }
            Piece::Rest => {
                caught.push(here);
                left = None;
            }
        }
    }
    left.is_none().then_some(caught)
}

fn covers(wide: &[Piece], narrow: &[Piece]) -> bool {
    match (wide, narrow) {
        ([], []) | ([Piece::Rest], [_, ..]) => true,
        ([Piece::Word(a), wide @ ..], [Piece::Word(b), narrow @ ..]) => a == b && covers(wide, narrow),
        ([Piece::One, wide @ ..], [Piece::Word(_) | Piece::One, narrow @ ..]) => covers(wide, narrow),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(from: &str, to: &str, name: &str) -> Option<String> {
        Row::new(from, to).unwrap().apply(name)
    }

    #[test]
    fn stars_stand_for_segments() {
        let new = |from, to, name| apply(from, to, name).unwrap();
        assert_eq!(new("a.b", "c", "a.b"), "c");
        assert_eq!(new("stem.*.**", "conv1.*.**", "stem.3.weight"), "conv1.3.weight");
        assert_eq!(new("*", "x.*", "a"), "x.a");
        assert_eq!(new("head.**", "**", "head.a.b.c"), "a.b.c");
        assert_eq!(new("*.*.weight", "w.*.*", "a.b.weight"), "w.a.b");
        for (from, name) in
            [("a", "a.b"), ("a.b", "a"), ("a.*", "a"), ("a.**", "a"), ("a.*", "a.b.c"), ("a.b", "x.b")]
        {
            assert_eq!(apply(from, &from.replace('a', "z"), name), None, "{from} {name}");
        }
    }

    #[test]
    fn unsound_rows_are_errors() {
        for (from, to) in [
            ("a.**.b", "a.**.b"),
            ("a.*", "a"),
            ("a", "a.*"),
            ("a.*.**", "a.**"),
            ("a.*", "a.**"),
            ("layer*.x", "layer*.x"),
            ("", "a"),
            ("a..b", "a"),
        ] {
            let error = Row::new(from, to).unwrap_err();
            assert!(matches!(error, Error::Rule { .. }), "{from} {to}: {error}");
        }
    }

    #[test]
    fn results_that_hide_others() {
        let row = |to: &str| Row::new(to, to).unwrap();
        for (wide, narrow, covers) in [
            ("a.*", "a.b", true),
            ("a.b", "a.*", false),
            ("a.b", "a.b", true),
            ("a.**", "a.b.c", true),
            ("a.**", "a.*.**", true),
            ("a.*.**", "a.**", false),
            ("a.**", "a", false),
            ("a.*", "b.*", false),
            ("a.*.c", "a.b.*", false),
            ("a.b", "a.b.c", false),
            ("**", "x", true),
        ] {
            assert_eq!(row(wide).results_cover(&row(narrow)), covers, "{wide} {narrow}");
        }
    }
}
