//! Reading a configuration from its sources.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::expect::{Expect, parse_expect};
use super::merge::{Origins, join, merge, nested};
use super::{ConfigSource, Resolved};
use crate::error::{Error, Result};
use crate::recipe::RecipeConfig;

/// How long a chain of `base` files may be; longer ones are almost surely a loop.
const MAX_CHAIN: usize = 16;

/// Merges `source` and `overrides` (`key=value`, the value in TOML or a bare string) over the defaults.
///
/// # Errors
/// [`Error::Config`] with the file, the dotted key and the allowed keys or type; [`Error::Invalid`] with all
/// problems [`RecipeConfig::validate`] finds; [`Error::Io`] if a file cannot be read.
pub fn load<C: RecipeConfig>(source: &ConfigSource, overrides: &[String]) -> Result<Resolved<C>> {
    let name = source.name();
    let mut origins = Origins::default();
    let mut merged = to_table(&C::default(), &name)?;

    let mut layers = chain::<C>(source)?;
    let mut expect_table = Table::new();
    if let Some((_, own)) = layers.first_mut()
        && let Some(value) = own.remove("expect")
    {
        let Value::Table(table) = value else {
            return Err(Error::config(&name, "expect", "must be a table of metrics"));
        };
        expect_table = table;
    }
    for (layer_name, mut table) in layers.into_iter().rev() {
        table.remove("expect");
        table.remove("base");
        merge(&mut merged, table, &layer_name, &mut origins);
    }
    for text in overrides {
        let (key, value) = parse_override(text)?;
        if let Some(metric) = key.strip_prefix("expect.") {
            merge(&mut expect_table, nested(metric, value), "--set", &mut origins);
        } else {
            merge(&mut merged, nested(&key, value), &format!("--set {text}"), &mut origins);
        }
    }
    let expect = parse_expect(&expect_table, &name)?;
    let config = deserialise(merged, &name, &origins)?;
    finish(config, expect, name)
}

/// Reads the fully spelled out text of a run folder or checkpoint back.
///
/// # Errors
/// As [`load`].
pub fn parse_resolved<C: RecipeConfig>(text: &str, name: &str) -> Result<Resolved<C>> {
    load(&ConfigSource::Text { name: name.to_owned(), toml: text.to_owned() }, &[])
}

pub(super) fn finish<C: RecipeConfig>(config: C, expect: Vec<Expect>, source: String) -> Result<Resolved<C>> {
    let mut problems = config.run().problems();
    if let Err(own) = config.validate() {
        // A recipe may already have asked its `run` table; say each thing once.
        for problem in own {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    if !problems.is_empty() {
        return Err(Error::Invalid { path: source, problems });
    }
    let table = to_table(&config, &source)?;
    if !matches!(table.get("run"), Some(Value::Table(_))) {
        return Err(Error::config(source, "run", "the configuration struct must have a field `run`"));
    }
    let toml = toml::to_string(&table).map_err(|error| Error::config(&source, "", error.to_string()))?;
    Ok(Resolved { config, expect, toml, source })
}

fn to_table<C: RecipeConfig>(config: &C, name: &str) -> Result<Table> {
    Table::try_from(config).map_err(|error| Error::config(name, "", error.to_string().trim_end()))
}

/// The named source first, then its bases.
fn chain<C: RecipeConfig>(source: &ConfigSource) -> Result<Vec<(String, Table)>> {
    let mut layers: Vec<(String, Table)> = Vec::new();
    let mut next = Some(source.clone());
    while let Some(source) = next.take() {
        let name = source.name();
        if layers.iter().any(|(known, _)| *known == name) || layers.len() == MAX_CHAIN {
            let names: Vec<&str> = layers.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::config(
                &name,
                "base",
                format!("the chain never ends: {}", names.join(" -> ")),
            ));
        }
        let table = read::<C>(&source, &name)?;
        match table.get("base") {
            None => {}
            Some(Value::String(base)) => next = Some(base_of(&source, base)),
            Some(_) => return Err(Error::config(&name, "base", "must be the name of a preset or file")),
        }
        layers.push((name, table));
    }
    Ok(layers)
}

/// A file's `base` is looked up beside that file.
fn base_of(source: &ConfigSource, base: &str) -> ConfigSource {
    match (source, ConfigSource::from_argument(base)) {
        (ConfigSource::Path(path), ConfigSource::Path(relative)) => {
            let parent: &Path = path.parent().unwrap_or(Path::new(""));
            ConfigSource::Path(parent.join(relative))
        }
        (_, source) => source,
    }
}

fn read<C: RecipeConfig>(source: &ConfigSource, name: &str) -> Result<Table> {
    let text = match source {
        ConfigSource::Default => String::new(),
        ConfigSource::Preset(preset) => preset_text::<C>(preset)?.to_owned(),
        ConfigSource::Path(path) => {
            std::fs::read_to_string(path).map_err(|error| Error::io(PathBuf::from(path), error))?
        }
        ConfigSource::Text { toml, .. } => toml.clone(),
    };
    text.parse().map_err(|error: toml::de::Error| Error::config(name, "", error.to_string().trim_end()))
}

fn preset_text<C: RecipeConfig>(name: &str) -> Result<&'static str> {
    let presets = C::presets();
    if let Some((_, text)) = presets.iter().find(|(known, _)| *known == name) {
        return Ok(text);
    }
    let names: Vec<&str> = presets.iter().map(|(name, _)| *name).collect();
    let problem = format!("no such file, and no such preset; presets: {}", names.join(", "));
    Err(Error::config(name, "", problem))
}

fn parse_override(text: &str) -> Result<(String, Value)> {
    let source = || format!("--set {text}");
    let Some((key, value)) = text.split_once('=') else {
        return Err(Error::config(source(), "", "must look like key=value"));
    };
    let key = key.trim();
    if key.is_empty() || key.split('.').any(str::is_empty) {
        return Err(Error::config(source(), key, "is not a dotted key"));
    }
    // A bare word is no TOML value; it stands for the string.
    let parsed = format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    Ok((key.to_owned(), parsed.unwrap_or_else(|| Value::String(value.trim().to_owned()))))
}

fn deserialise<C: RecipeConfig>(table: Table, name: &str, origins: &Origins) -> Result<C> {
    let error = match table.try_into::<C>() {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    let parent = key_of(&error);
    let message = error.message().trim_end();
    let (key, problem) = match unknown_field(message) {
        Some((field, allowed)) => (join(&parent, field), format!("unknown key; {allowed}")),
        None => (parent, message.to_owned()),
    };
    let source = origins.find(&key).unwrap_or(name);
    Err(Error::config(source, key, problem))
}

/// The key path is only part of the error's text: its last line reads "in `a.b`".
fn key_of(error: &toml::de::Error) -> String {
    let text = error.to_string();
    text.lines()
        .rev()
        .find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'))
        .unwrap_or_default()
        .to_owned()
}

/// Takes serde's message about an unknown field apart: the field, and what is allowed in its place.
fn unknown_field(message: &str) -> Option<(&str, String)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (field, rest) = rest.split_once('`')?;
    let rest = rest.trim_start_matches(", ");
    let names: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let mut allowed = if names.is_empty() {
        "no keys are allowed here".to_owned()
    } else {
        format!("allowed keys: {}", names.join(", "))
    };
    if let Some(near) = names.iter().find(|name| distance(name, field) <= 2) {
        allowed = format!("{allowed} (did you mean `{near}`?)");
    }
    Some((field, allowed))
}

/// Edit distance of two short names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_take_toml_and_bare_strings() {
        assert_eq!(parse_override("a.b=3").unwrap(), ("a.b".to_owned(), Value::Integer(3)));
        assert_eq!(parse_override("a=fast mode").unwrap().1, Value::String("fast mode".to_owned()));
        assert_eq!(parse_override("a=[1, 2]").unwrap().1.as_array().unwrap().len(), 2);
        assert_eq!(parse_override("a = \"3\"").unwrap().1, Value::String("3".to_owned()));
        assert_eq!(parse_override("a=b=c").unwrap().1, Value::String("b=c".to_owned()));
        assert!(parse_override("a").is_err());
        assert!(parse_override("a..b=1").is_err());
        assert!(parse_override("=1").is_err());
    }

    #[test]
    fn a_value_cannot_bring_in_more_keys() {
        let (_, value) = parse_override("a=1\nb=2").unwrap();
        assert_eq!(value, Value::Integer(1));
    }

    #[test]
    fn distances() {
        assert_eq!(distance("lr", "lrr"), 1);
        assert_eq!(distance("momentum", "momentun"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("seed", "speed"), 1);
    }
}
