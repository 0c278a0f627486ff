//! Field and label selectors, as far as the kinds served here have them.

use serde_json::Value;

use super::refusal::Refusal;
use super::resource::Resource;

/// Which objects a list or watch is about.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone)]
struct Term {
    /// Where the value lies in the object.
    path: Vec<String>,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    pub(super) fn parse(resource: &Resource, fields: &str, labels: &str) -> Result<Self, Refusal> {
        let mut terms = Vec::new();
        for part in fields.split(',').filter(|part| !part.is_empty()) {
            let (field, value, equal) =
                split_equality(part).ok_or_else(|| Refusal::bad_request(format!("invalid field selector {part:?}")))?;
            if !supported(resource, field) {
                return Err(Refusal::bad_request(format!(
                    "Unable to find {:?} that match label selector \"\", field selector {fields:?}: field label not \
                     supported: {field}",
                    resource.plural
                )));
            }
            let test = if equal { Test::In(vec![value.to_owned()]) } else { Test::NotIn(vec![value.to_owned()]) };
            terms.push(Term { path: field.split('.').map(str::to_owned).collect(), test });
        }
        for part in split_outside_parentheses(labels) {
            let (key, test) = label_term(part)
                .ok_or_else(|| Refusal::bad_request(format!("unable to parse requirement: {part:?}")))?;
            terms.push(Term { path: vec!["metadata".to_owned(), "labels".to_owned(), key], test });
        }
        Ok(Self { terms })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| {
            let value = term.path.iter().try_fold(object, |at, key| at.get(key)).and_then(Value::as_str);
            let is_label = term.path.get(1).is_some_and(|part| part == "labels");
            match &term.test {
                // An absent field selects as the empty string, an absent label as itself.
                Test::In(values) => match value {
                    Some(value) => values.iter().any(|v| v == value),
                    None => !is_label && values.iter().any(String::is_empty),
                },
                Test::NotIn(values) => match value {
                    Some(value) => !values.iter().any(|v| v == value),
                    None => is_label || !values.iter().any(String::is_empty),
                },
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
            }
        })
    }
}

fn supported(resource: &Resource, field: &str) -> bool {
    match field {
        "metadata.name" => true,
        "metadata.namespace" => resource.namespaced,
        "spec.nodeName" | "status.phase" | "spec.schedulerName" | "spec.restartPolicy" | "status.nominatedNodeName" => {
            resource.plural == "pods" || (field == "status.phase" && resource.plural == "namespaces")
        }
        "spec.unschedulable" => resource.plural == "nodes",
        "type" => matches!(resource.plural, "secrets" | "events"),
        "reason" => resource.plural == "events",
        _ => {
            resource.plural == "events"
                && resource.group.is_empty()
                && matches!(
                    field,
                    "involvedObject.kind" | "involvedObject.name" | "involvedObject.namespace" | "involvedObject.uid"
                )
        }
    }
}

fn split_equality(part: &str) -> Option<(&str, &str, bool)> {
    part.split_once("!=")
        .map(|(key, value)| (key, value, false))
        .or_else(|| part.split_once("==").or_else(|| part.split_once('=')).map(|(key, value)| (key, value, true)))
        .map(|(key, value, equal)| (key.trim(), value.trim(), equal))
}

fn split_outside_parentheses(labels: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, c) in labels.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&labels[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&labels[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn label_term(part: &str) -> Option<(String, Test)> {
    let part = part.trim();
    if let Some((head, list)) = part.split_once('(') {
        let values: Vec<String> = list.strip_suffix(')')?.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        let (key, operator) = (words.next()?, words.next()?);
        return match operator {
            "in" => Some((key.to_owned(), Test::In(values))),
            "notin" => Some((key.to_owned(), Test::NotIn(values))),
            _ => None,
        };
    }
    if let Some((key, value, equal)) = split_equality(part) {
        let values = vec![value.to_owned()];
        return Some((key.to_owned(), if equal { Test::In(values) } else { Test::NotIn(values) }));
    }
    Some(match part.strip_prefix('!') {
        Some(key) => (key.trim().to_owned(), Test::Absent),
        None => (part.to_owned(), Test::Exists),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selects_by_field_and_label() {
        let pods = Resource::by_plural("pods").unwrap();
        let pod =
            json!({"metadata": {"name": "a", "labels": {"app": "x"}}, "spec": {}, "status": {"phase": "Pending"}});
        for (fields, labels, expected) in [
            ("metadata.name=a", "", true),
            ("metadata.name=b", "", false),
            ("spec.nodeName=", "", true),
            ("spec.nodeName!=", "", false),
            ("status.phase!=Failed,status.phase!=Succeeded", "", true),
            ("", "app=x", true),
            ("", "app in (y, z)", false),
            ("", "app notin (y,z),app", true),
            ("", "!app", false),
            ("", "other!=x", true),
        ] {
            let selector = Selector::parse(pods, fields, labels).unwrap();
            assert_eq!(selector.matches(&pod), expected, "{fields} {labels}");
        }
        assert_eq!(Selector::parse(pods, "spec.hostname=a", "").unwrap_err().code, 400);
    }
}
