//! The files that containerd reads beside its main file: what `imports` names, breadth first, as containerd itself resolves it.

use std::collections::HashSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::File;
use super::files::{self, Error};
use super::toml::Document;

/// The main file and all it imports, in the order in which containerd reads them.
///
/// # Errors
/// [`Error`] where a file cannot be read or is no TOML.
pub fn load(main: &Path) -> Result<Vec<File>, Error> {
    let mut read = Vec::new();
    let mut seen = HashSet::new();
    let mut pending = std::collections::VecDeque::from([main.to_owned()]);
    while let Some(path) = pending.pop_front() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let file = files::read(&path)?;
        for pattern in Document::parse(&file)?.texts(&["imports"])? {
            let pattern = absolute(&path, pattern);
            if pattern.to_string_lossy().contains('*') {
                pending.extend(matching(&pattern));
            } else {
                pending.push_back(pattern);
            }
        }
        read.push(file);
    }
    Ok(read)
}

/// Whether the imports of a main file would find a file at `path`.
///
/// # Errors
/// [`Error`] where the main file is no TOML.
pub fn find(main: &File, path: &Path) -> Result<bool, Error> {
    let document = Document::parse(main)?;
    Ok(document.texts(&["imports"])?.into_iter().any(|pattern| fits_path(&absolute(&main.path, pattern), path)))
}

fn absolute(parent: &Path, pattern: &str) -> PathBuf {
    let joined = parent.parent().unwrap_or(Path::new("/")).join(pattern);
    let mut clean = PathBuf::new();
    for part in joined.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}

/// The files that fit, by name.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.components().filter(|part| !matches!(part, Component::RootDir)) {
        let part = part.as_os_str().to_string_lossy();
        let mut next = Vec::new();
        for folder in found {
            if !part.contains(['*', '?', '[']) {
                next.push(folder.join(&*part));
                continue;
            }
            // A folder that cannot be read has nothing in it for containerd either.
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
            let mut names: Vec<_> = names.filter(|name| fits(part.as_bytes(), name.as_bytes())).collect();
            names.sort();
            next.extend(names.into_iter().map(|name| folder.join(name)));
        }
        found = next;
    }
    found.retain(|path| path.exists());
    found
}

fn fits_path(pattern: &Path, path: &Path) -> bool {
    let parts =
        |path: &Path| path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect::<Vec<_>>();
    let (pattern, path) = (parts(pattern), parts(path));
    pattern.len() == path.len()
        && pattern.iter().zip(&path).all(|(pattern, name)| fits(pattern.as_bytes(), name.as_bytes()))
}

/// Go's `path/filepath.Match` within one name: `*`, `?`, `[a-z]`, `[^a-z]`.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|from| fits(rest, &name[from..])),
        Some((b'?', rest)) => name.split_first().is_some_and(|(_, name)| fits(rest, name)),
        Some((b'[', rest)) => {
            let Some(end) = rest.iter().skip(1).position(|c| *c == b']').map(|at| at + 1) else { return false };
            let (class, rest) = (&rest[..end], &rest[end + 1..]);
            name.split_first().is_some_and(|(first, name)| in_class(class, *first) && fits(rest, name))
        }
        Some((first, rest)) => name.split_first().is_some_and(|(c, name)| c == first && fits(rest, name)),
    }
}

fn in_class(class: &[u8], c: u8) -> bool {
    let (negated, class) = match class.split_first() {
        Some((b'^', class)) => (true, class),
        _ => (false, class),
    };
    let mut at = 0;
    let mut found = false;
    while at < class.len() {
        if class.get(at + 1) == Some(&b'-') && at + 2 < class.len() {
            found |= (class[at]..=class[at + 2]).contains(&c);
            at += 3;
        } else {
            found |= class[at] == c;
            at += 1;
        }
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_go() {
        for (pattern, name, fitting) in [
            ("*.toml", "99-nvidia.toml", true),
            ("*.toml", "99-nvidia.toml.bak", false),
            ("*", ".hidden", true),
            ("?0-*.toml", "10-a.toml", true),
            ("[0-4]*.toml", "50-a.toml", false),
            ("[^a]*", "b", true),
            ("a]", "a]", true),
            ("[a", "a", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), fitting, "{pattern} {name}");
        }
    }

    #[test]
    fn finds_a_file_that_is_not_there_yet() {
        let main =
            |imports: &str| File::new("/etc/containerd/config.toml", format!("version = 2\nimports = [{imports}]\n"));
        let path = Path::new("/etc/containerd/conf.d/99-nvidia.toml");
        for (imports, found) in [
            ("\"/etc/containerd/conf.d/*.toml\"", true),
            ("\"conf.d/*.toml\"", true),
            ("\"./x/../conf.d/99-nvidia.toml\"", true),
            ("\"/etc/containerd/*.toml\"", false),
            ("", false),
        ] {
            assert_eq!(find(&main(imports), path).expect("in order"), found, "{imports}");
        }
    }
}
