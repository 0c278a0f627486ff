//! Every value of the chart changes something, and the thing that it says: `values.yaml` is walked leaf by leaf, and a leaf that none
//! of the tables below has fails the test.

mod around;
mod control;
mod driver;
mod node;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Rendered, helm, job, render, yaml};

/// What another value does.
enum Effect {
    /// The object has this there.
    At(&'static str, &'static str, Value),
    /// A list of the object has this element, or a text this part.
    Holds(&'static str, &'static str, Value),
    /// The object is there.
    Made(&'static str),
    /// The object is not there.
    Gone(&'static str),
}

/// One leaf: where it is, another value, what has to be set besides, and what comes of it.
pub(super) struct Case {
    pub(super) path: &'static str,
    value: Value,
    besides: Value,
    effect: Effect,
}

fn case(path: &'static str, value: Value, effect: Effect) -> Case {
    Case { path, value, besides: json!({}), effect }
}

impl Case {
    /// With other values set in both renderings.
    fn besides(self, besides: Value) -> Self {
        Self { besides, ..self }
    }

    /// All that is set.
    pub(super) fn values(&self) -> Value {
        with(&self.besides, self.path, &self.value)
    }

    /// Without its value and with it.
    pub(super) fn jobs(&self) -> [Value; 2] {
        [job(self.besides.clone()), job(self.values())]
    }
}

impl Effect {
    fn is_seen(&self, rendered: &Rendered) -> bool {
        match self {
            Self::At(object, pointer, value) => {
                rendered.find(object).and_then(|object| object.pointer(pointer)) == Some(value)
            }
            Self::Holds(object, pointer, value) => {
                match rendered.find(object).and_then(|object| object.pointer(pointer)) {
                    Some(Value::Array(list)) => list.contains(value),
                    Some(Value::String(text)) => text.contains(value.as_str().expect("a part of a text")),
                    _ => false,
                }
            }
            Self::Made(object) => rendered.find(object).is_some(),
            Self::Gone(object) => rendered.find(object).is_none(),
        }
    }
}

/// The paths of all values that are no group of values. What is empty or a list is a value.
fn leaves(values: &Value, path: &str, found: &mut BTreeSet<String>) {
    match values.as_object().filter(|group| !group.is_empty()) {
        Some(group) => {
            for (name, value) in group {
                leaves(value, &format!("{path}{}{name}", if path.is_empty() { "" } else { "." }), found);
            }
        }
        None => {
            found.insert(path.to_owned());
        }
    }
}

/// `values` with `value` at `path`.
fn with(values: &Value, path: &str, value: &Value) -> Value {
    let mut all = values.clone();
    let mut place = &mut all;
    for name in path.split('.') {
        place = &mut place[name];
    }
    *place = value.clone();
    all
}

/// One for each value of the chart, by its path.
pub(super) fn cases() -> BTreeMap<&'static str, Case> {
    let parts = [
        control::server(),
        control::scheduler(),
        control::admission(),
        node::agent(),
        driver::driver(),
        around::other(),
    ];
    parts.into_iter().flatten().map(|case| (case.path, case)).collect()
}

#[test]
fn every_value_of_the_chart_does_what_it_says() {
    let cases = cases();
    let mut values = BTreeSet::new();
    leaves(&yaml("values.yaml"), "", &mut values);
    let told: BTreeSet<String> = cases.keys().map(|&path| path.to_owned()).collect();
    assert_eq!(values, told, "values.yaml and the table of this test differ");

    let Some(helm) = helm::binary() else { return };
    let jobs: Vec<Value> = cases.values().flat_map(Case::jobs).collect();
    let renderings = render(helm, &jobs);
    let mut wrong = Vec::new();
    for (case, pair) in cases.values().zip(renderings.chunks(2)) {
        let [before, after] = pair else { unreachable!("two of each") };
        for rendered in pair {
            assert!(rendered.error.is_empty(), "{}: {}", case.path, rendered.error);
        }
        if before.objects == after.objects {
            wrong.push(format!("{} changes nothing", case.path));
        } else if case.effect.is_seen(before) {
            wrong.push(format!("{}: its effect is there without it", case.path));
        } else if !case.effect.is_seen(after) {
            wrong.push(format!("{}: {} has no effect where it should", case.path, case.value));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
