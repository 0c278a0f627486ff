//! Editing TOML without touching what is not meant: [`toml_edit`] keeps comments, order and spelling; this module adds what it
//! leaves to its users: places of errors, line ends, comments behind the last key, and new keys that look like their neighbours.

use std::path::{Path, PathBuf};

use toml_edit::{Decor, DocumentMut, InlineTable, Item, Key, Table, TableLike, Value};

use super::{Edit, File, Place, Refusal};

/// A TOML file that is being edited.
#[derive(Debug, Clone)]
pub struct Document {
    path: PathBuf,
    before: Option<String>,
    /// The lines end with CR LF.
    crlf: bool,
    /// Comments behind the last key, kept apart: what is added shall come behind them.
    trailing: String,
    tree: DocumentMut,
    /// What [`Self::tree`] printed when it was read.
    printed: String,
}

impl Document {
    /// Reads a file; one that is not there is empty.
    ///
    /// # Errors
    /// [`Refusal::Syntax`] where it is no TOML.
    pub fn parse(file: &File) -> Result<Self, Refusal> {
        let text = file.text.as_deref().unwrap_or_default();
        let ends = text.matches('\n').count();
        let crlf = ends > 0 && text.matches("\r\n").count() == ends;
        let plain = if crlf { text.replace("\r\n", "\n") } else { text.to_owned() };
        let mut tree = plain.parse::<DocumentMut>().map_err(|error| Refusal::Syntax {
            file: file.path.clone(),
            // An error without a place concerns the file as a whole.
            place: Place::of(&plain, error.span().map_or(0, |span| span.start)),
            message: one_line(error.message()),
        })?;
        let trailing = tree.trailing().as_str().unwrap_or_default().to_owned();
        tree.set_trailing("");
        let printed = tree.to_string();
        Ok(Self { path: file.path.clone(), before: file.text.clone(), crlf, trailing, tree, printed })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is such a file.
    pub fn exists(&self) -> bool {
        self.before.is_some()
    }

    /// The change, where there is one.
    pub fn into_edit(self) -> Option<Edit> {
        if self.tree.to_string() == self.printed {
            return None;
        }
        let after = self.print();
        (self.before.as_deref() != Some(after.as_str())).then_some(Edit { path: self.path, before: self.before, after })
    }

    fn print(&self) -> String {
        let now = self.tree.to_string();
        let text = match now.strip_prefix(&self.printed) {
            Some(added) if !self.trailing.trim().is_empty() => {
                let gap = if self.trailing.ends_with('\n') { "" } else { "\n" };
                let added = if added.starts_with('\n') { added.to_owned() } else { format!("\n{added}") };
                format!("{}{}{gap}{added}", self.printed, self.trailing)
            }
            _ => format!("{now}{}", self.trailing),
        };
        // An empty line ahead of the first key of a new file.
        let text = if self.before.is_none() { text.trim_start_matches('\n').to_owned() } else { text };
        if self.crlf { text.replace('\n', "\r\n") } else { text }
    }

    /// What stands under a path of keys.
    pub fn get(&self, path: &[&str]) -> Option<&Item> {
        path.iter().try_fold(self.tree.as_item(), |item, key| item.as_table_like()?.get(key))
    }

    /// The table under a path of keys.
    ///
    /// # Errors
    /// [`Refusal::Shape`] where something else stands there.
    pub fn table(&self, path: &[&str]) -> Result<Option<&dyn TableLike>, Refusal> {
        for length in 1..=path.len() {
            let Some(item) = self.get(&path[..length]) else { return Ok(None) };
            if !item.is_table_like() {
                return Err(self.shape(&path[..length], item, "a table"));
            }
        }
        Ok(self.get(path).and_then(Item::as_table_like))
    }

    /// The text under a path of keys.
    ///
    /// # Errors
    /// [`Refusal::Shape`] where something else stands there.
    pub fn text(&self, path: &[&str]) -> Result<Option<&str>, Refusal> {
        let Some((_, above)) = path.split_last() else { return Ok(None) };
        if self.table(above)?.is_none() {
            return Ok(None);
        }
        let Some(item) = self.get(path) else { return Ok(None) };
        item.as_str().map(Some).ok_or_else(|| self.shape(path, item, "a text"))
    }

    /// The list of texts under a path of keys; empty where there is none.
    ///
    /// # Errors
    /// [`Refusal::Shape`] where something else stands there.
    pub fn texts(&self, path: &[&str]) -> Result<Vec<&str>, Refusal> {
        let Some(item) = self.get(path) else { return Ok(Vec::new()) };
        item.as_array()
            .and_then(|array| array.iter().map(Value::as_str).collect::<Option<Vec<_>>>())
            .ok_or_else(|| self.shape(path, item, "a list of texts"))
    }

    /// Sets a value; nothing changes where it is that already. Tables on the way are made.
    ///
    /// # Errors
    /// [`Refusal::Shape`] where a key on the way holds something else than a table, or the key itself holds a table.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) -> Result<(), Refusal> {
        let Some((key, above)) = path.split_last() else { return Ok(()) };
        let value = value.into();
        match self.get(path) {
            Some(Item::Value(old)) if same(old, &value) => return Ok(()),
            Some(item @ (Item::Table(_) | Item::ArrayOfTables(_))) => return Err(self.shape(path, item, "a value")),
            _ => {}
        }
        let (table, indent) = self.table_mut(above, true)?;
        if let Some(Item::Value(old)) = table.get_mut(key) {
            let decor = old.decor().clone();
            *old = value;
            *old.decor_mut() = decor;
            return Ok(());
        }
        append(table, key, Item::Value(value));
        if let Some(mut key) = table.key_mut(key)
            && !indent.is_empty()
        {
            key.leaf_decor_mut().set_prefix(indent);
        }
        Ok(())
    }

    /// Adds a text to a list, which is made where it is missing; nothing changes where it is in it.
    ///
    /// # Errors
    /// [`Refusal::Shape`] where something else stands there.
    pub fn add(&mut self, key: &str, text: &str) -> Result<(), Refusal> {
        let list = self.texts(&[key])?;
        if list.contains(&text) {
            return Ok(());
        }
        if list.is_empty() {
            return self.set(&[key], Value::from_iter([text]));
        }
        let table = self.tree.as_table_mut();
        if let Some(array) = table.get_mut(key).and_then(Item::as_array_mut) {
            let mut value = Value::from(text);
            // The last of a list over several lines begins a line of its own, and so shall the new one. A comment behind the last
            // belongs to that one.
            if let Some(last) = array.iter().last() {
                let gap = plain(last.decor().prefix());
                // The first of a list has no gap on its own line, the second has.
                let own_line = if gap.is_empty() && array.len() == 1 { " ".to_owned() } else { gap };
                let trailing = array.trailing().as_str().unwrap_or_default().to_owned();
                let comment = trailing.trim_end();
                *value.decor_mut() = Decor::new(format!("{comment}{own_line}"), "");
                if !comment.is_empty() {
                    array.set_trailing(&trailing[comment.len()..]);
                }
            }
            array.push_formatted(value);
        }
        Ok(())
    }

    /// Puts a copy of a table, from this file or another, under a path of keys.
    ///
    /// # Errors
    /// [`Refusal::Shape`] where a key on the way holds something else than a table.
    pub fn put(&mut self, path: &[&str], copy: Item) -> Result<(), Refusal> {
        let Some((key, above)) = path.split_last() else { return Ok(()) };
        let (table, _) = self.table_mut(above, false)?;
        append(table, key, copy);
        Ok(())
    }

    /// The table under a path of keys, made where it is missing, and how keys in it are indented. With a header of its own where it is
    /// to hold values.
    fn table_mut(&mut self, path: &[&str], values: bool) -> Result<(&mut dyn TableLike, String), Refusal> {
        // Shape first: the errors below cannot happen after it.
        self.table(path)?;
        let lost =
            Refusal::Conflict { file: self.path.clone(), message: format!("{} cannot be edited", path.join(".")) };
        let mut item = self.tree.as_item_mut();
        let mut look = Look::default();
        for (depth, key) in path.iter().enumerate() {
            let inline = item.is_inline_table();
            let Some(table) = item.as_table_like_mut() else { return Err(lost) };
            let header = values && depth + 1 == path.len();
            let below = look.below();
            if table.contains_key(key) {
                item = table.get_mut(key).ok_or_else(|| lost.clone())?;
            } else {
                let new = if inline {
                    Item::Value(Value::InlineTable(InlineTable::new()))
                } else {
                    let mut new = Table::new();
                    new.set_implicit(!header);
                    new.decor_mut().set_prefix(below.prefix());
                    Item::Table(new)
                };
                item = table.entry_format(&spelled(key)).or_insert(new);
                look = below;
            }
            if let Item::Table(table) = &mut *item {
                if header && table.is_implicit() {
                    // The header comes ahead of the first of the tables that are already there, and looks like it.
                    let first = first_child(table);
                    let (position, like) = (first.and_then(Table::position), first.map(Look::ahead_of));
                    table.set_implicit(false);
                    table.set_position(position);
                    look = like.unwrap_or(look);
                    table.decor_mut().set_prefix(look.prefix());
                } else if !table.is_implicit() {
                    look = if table.is_empty() { look } else { Look::of(table) };
                }
            }
        }
        Ok((item.as_table_like_mut().ok_or(lost)?, look.keys))
    }

    /// The error for a key that holds something unexpected.
    pub fn shape(&self, path: &[&str], item: &Item, expected: &'static str) -> Refusal {
        let key = path.iter().map(|key| spelled(key).display_repr().into_owned()).collect::<Vec<_>>().join(".");
        Refusal::Shape { file: self.path.clone(), key, found: format!("of type {}", item.type_name()), expected }
    }
}

/// A copy of a table for another place: no comments, and the same indentation.
pub fn bare_copy(item: &Item) -> Item {
    let mut copy = item.clone();
    strip(&mut copy);
    copy
}

/// A copy of a table for another file, with its comments.
pub fn full_copy(item: &Item) -> Item {
    let mut copy = item.clone();
    forget_positions(&mut copy);
    copy
}

fn forget_positions(item: &mut Item) {
    if let Item::Table(table) = item {
        table.set_position(None);
        for (_, child) in table.iter_mut() {
            forget_positions(child);
        }
    }
}

/// How a table is set.
#[derive(Debug, Clone, Default)]
struct Look {
    /// Without an empty line ahead of it.
    tight: bool,
    header: String,
    keys: String,
}

impl Look {
    fn of(table: &Table) -> Self {
        let prefix = table.decor().prefix();
        let header = last_line(prefix);
        let first = table.iter().find(|(_, item)| item.is_value()).and_then(|(key, _)| table.key(key));
        let keys = match first {
            Some(key) => indent_of(key),
            // Nothing to go by but the header.
            None if header.is_empty() => String::new(),
            None if header.contains('\t') => format!("{header}\t"),
            None => format!("{header}  "),
        };
        // The first header of a file tells nothing: nobody begins with an empty line.
        let tight = table.position().is_some_and(|place| place > 1) && !plain(prefix).starts_with('\n');
        Self { tight, header, keys }
    }

    /// Of a table that comes right ahead of this one.
    fn ahead_of(table: &Table) -> Self {
        Self { tight: !plain(table.decor().prefix()).starts_with('\n'), ..Self::of(table) }
    }

    /// Of a table one level deeper.
    fn below(&self) -> Self {
        let header = if self.header.is_empty() { String::new() } else { self.keys.clone() };
        let step = self.keys.strip_prefix(&self.header).unwrap_or_default();
        let keys = format!("{header}{step}");
        Self { tight: self.tight, header, keys }
    }

    fn prefix(&self) -> String {
        format!("{}{}", if self.tight { "" } else { "\n" }, self.header)
    }
}

/// Adds a key at the end. In an inline table what stands ahead of the closing brace stays there.
fn append(table: &mut dyn TableLike, key: &str, item: Item) {
    let last = table.iter().last().map(|(last, _)| last.to_owned());
    let end = last.as_deref().and_then(|last| table.get_mut(last)).and_then(Item::as_value_mut).map(Value::decor_mut);
    // Only in inline tables a value has something behind it on its line but a comment.
    let behind =
        end.filter(|decor| decor.suffix().and_then(toml_edit::RawString::as_str).is_some_and(|text| text == " "));
    let behind = behind.map(|decor| decor.set_suffix("")).is_some();
    table.insert(key, item);
    if behind && let Some(value) = table.get_mut(key).and_then(Item::as_value_mut) {
        value.decor_mut().set_suffix(" ");
    }
}

fn strip(item: &mut Item) {
    match item {
        Item::Table(table) => {
            table.set_position(None);
            table.set_dotted(false);
            let empty_line = plain(table.decor().prefix()).starts_with('\n') || table.decor().prefix().is_none();
            let indent = last_line(table.decor().prefix());
            let prefix = if empty_line { format!("\n{indent}") } else { indent };
            *table.decor_mut() = Decor::new(prefix, "");
            for (mut key, child) in table.iter_mut() {
                let indent = last_line(key.leaf_decor().prefix());
                key.leaf_decor_mut().set_prefix(indent);
                strip(child);
            }
        }
        Item::Value(value) => {
            if let Some(prefix) = value.decor().prefix().map(|prefix| plain(Some(prefix))) {
                *value.decor_mut() = Decor::new(prefix, "");
            }
        }
        Item::None | Item::ArrayOfTables(_) => {}
    }
}

/// What stands ahead of something, less its comments.
fn plain(decor: Option<&toml_edit::RawString>) -> String {
    let text = decor.and_then(toml_edit::RawString::as_str).unwrap_or_default();
    text.split_inclusive('\n').filter(|line| line.trim().is_empty()).collect()
}

fn last_line(decor: Option<&toml_edit::RawString>) -> String {
    let text = decor.and_then(toml_edit::RawString::as_str).unwrap_or_default();
    let line = text.rsplit('\n').next().unwrap_or_default();
    if line.trim().is_empty() { line.to_owned() } else { String::new() }
}

fn indent_of(key: &Key) -> String {
    last_line(key.leaf_decor().prefix())
}

/// The first of the tables below one that has a header.
fn first_child(table: &Table) -> Option<&Table> {
    let children = table.iter().filter_map(|(_, item)| item.as_table());
    children
        .filter_map(|child| if child.position().is_some() { Some(child) } else { first_child(child) })
        .min_by_key(|child| child.position())
}

/// A key as it is written: names with dots between single quotes, as containerd prints them itself.
fn spelled(key: &str) -> Key {
    let quoted = format!("'{key}'");
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if bare {
        return Key::new(key);
    }
    Key::parse(&quoted).ok().and_then(|mut keys| keys.pop()).unwrap_or_else(|| Key::new(key))
}

fn same(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::String(old), Value::String(new)) => old.value() == new.value(),
        (Value::Boolean(old), Value::Boolean(new)) => old.value() == new.value(),
        (Value::Integer(old), Value::Integer(new)) => old.value() == new.value(),
        _ => false,
    }
}

fn one_line(message: &str) -> String {
    message.split('\n').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, edit: impl FnOnce(&mut Document)) -> Option<String> {
        let mut document = Document::parse(&File::new("/a.toml", text)).expect("in order");
        edit(&mut document);
        document.into_edit().map(|edit| edit.after)
    }

    #[test]
    fn what_is_that_way_already_is_no_change() {
        for text in ["a = \"x\" # why\n", "a = 'x'", "a = \"x\"\r\n# end", "# only\n"] {
            let after = edited(text, |document| {
                if document.get(&["a"]).is_some() {
                    document.set(&["a"], "x").expect("a value");
                }
            });
            assert_eq!(after, None, "{text:?}");
        }
    }

    #[test]
    fn lines_keep_their_ends() {
        let add = |document: &mut Document| document.set(&["t", "b"], true).expect("a table");
        assert_eq!(edited("a = 1\r\n[t]\r\n", add).as_deref(), Some("a = 1\r\n[t]\r\nb = true\r\n"));
        assert_eq!(edited("a = 1\n[t]\nx = 1", add).as_deref(), Some("a = 1\n[t]\nx = 1\nb = true\n"));
    }

    #[test]
    fn a_value_keeps_the_comment_behind_it_and_its_place() {
        let text = "x = 1\nt = { a = 'old' } # why\ny = 2\n";
        let after = edited(text, |document| document.set(&["t", "a"], "new").expect("a value"));
        assert_eq!(after.as_deref(), Some("x = 1\nt = { a = \"new\" } # why\ny = 2\n"));
    }

    #[test]
    fn comments_at_the_end_stay_ahead_of_what_is_added() {
        let after =
            edited("a = 1\n\n# [t]\n#   b = false\n", |document| document.set(&["t", "b"], true).expect("a table"));
        assert_eq!(after.as_deref(), Some("a = 1\n\n# [t]\n#   b = false\n\n[t]\nb = true\n"));
    }

    #[test]
    fn lists_grow_in_their_manner() {
        for (before, after) in [
            ("", "l = [\"/b\"]\n"),
            ("l = []\n", "l = [\"/b\"]\n"),
            ("l = [\"/a\"]\n", "l = [\"/a\", \"/b\"]\n"),
            ("l = [\n  \"/a\", # one\n]\n", "l = [\n  \"/a\", # one\n  \"/b\",\n]\n"),
        ] {
            let grown = edited(before, |document| document.add("l", "/b").expect("a list"));
            assert_eq!(grown.as_deref(), Some(after), "{before:?}");
        }
        assert_eq!(edited("l = ['/b']\n", |document| document.add("l", "/b").expect("a list")), None);
    }

    #[test]
    fn names_the_key_that_holds_something_else() {
        let mut document = Document::parse(&File::new("/a.toml", "a.b = 1\nl = [1]\n")).expect("in order");
        for error in [
            document.set(&["a", "b", "c"], 1).expect_err("b is no table"),
            document.text(&["a", "b"]).map(|_| ()).expect_err("b is no text"),
            document.set(&["a"], 1).expect_err("a is a table"),
            document.texts(&["l"]).map(|_| ()).expect_err("no texts"),
        ] {
            assert!(matches!(error, Refusal::Shape { .. }), "{error}");
        }
        assert_eq!(document.into_edit(), None);
    }
}
