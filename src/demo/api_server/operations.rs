//! Create, update, delete, bind: each a read-check-write in one transaction of the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::object::{self, meta, now};
use super::pod;
use super::refusal::{Cause, Refusal};
use super::resource::{Resource, Target};
use super::store::{Key, State, Store};
use crate::random::Random;

/// What a client may say about a deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Deletion {
    pub(super) grace: Option<i64>,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) dry_run: bool,
}

/// The verbs, on the store.
#[derive(Debug)]
pub(super) struct Operations {
    pub(super) store: Arc<Store>,
    pub(super) priority_classes: BTreeMap<String, i32>,
    names: Mutex<Random>,
}

/// An update that is computed but not yet committed; admission may look at it in between.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) old: Arc<Value>,
    pub(super) new: Value,
}

impl Operations {
    pub(super) fn new(store: Arc<Store>, priority_classes: BTreeMap<String, i32>, seed: u64) -> Self {
        Self { store, priority_classes, names: Mutex::new(Random::new(seed ^ 0x75_6964)) }
    }

    fn random(&self) -> u64 {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    fn uid(&self) -> String {
        let (a, b) = (self.random(), self.random());
        let (d, e) = (b >> 48 & 0x3fff | 0x8000, b & 0xffff_ffff_ffff);
        format!("{:08x}-{:04x}-{:04x}-{d:04x}-{e:012x}", a >> 32, a >> 16 & 0xffff, a & 0x0fff | 0x4000)
    }

    /// Five letters as the original appends to `generateName`.
    fn suffix(&self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut random = Random::new(self.random());
        (0..5).map(|_| char::from(LETTERS[random.below(LETTERS.len())])).collect()
    }

    pub(super) fn get(&self, target: &Target) -> Result<Arc<Value>, Refusal> {
        let key = (target.namespace.clone(), target.name.clone());
        self.store.read().get(target.resource, &key).ok_or_else(|| Refusal::not_found(target.resource, &target.name))
    }

    /// What happens to a new object before admission: decoded, stripped of what is the server's, defaulted.
    pub(super) fn prepare(&self, target: &Target, body: Value) -> Result<Value, Refusal> {
        let resource = target.resource;
        let mut new = object::decode(resource, body)?;
        if !meta(&new, "resourceVersion").is_empty() {
            return Err(Refusal::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        object::wipe_system_fields(&mut new);
        let given = meta(&new, "namespace").to_owned();
        if resource.namespaced {
            if !given.is_empty() && given != target.namespace {
                return Err(Refusal::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            let namespaces = Resource::by_plural("namespaces").ok_or_else(Refusal::method_not_allowed)?;
            if self.store.read().get(namespaces, &(String::new(), target.namespace.clone())).is_none() {
                return Err(Refusal::not_found(namespaces, &target.namespace));
            }
            new["metadata"]["namespace"] = json!(target.namespace);
        } else if !given.is_empty() {
            return Err(Refusal::bad_request("namespace is not allowed on this kind"));
        }
        if resource.plural == "pods" {
            pod::default(&mut new)?;
            pod::set_priority(&mut new, &self.priority_classes)?;
        }
        Ok(new)
    }

    /// Commits a new object after admission.
    pub(super) fn create(&self, target: &Target, mut new: Value, dry_run: bool) -> Result<Arc<Value>, Refusal> {
        let resource = target.resource;
        if meta(&new, "name").is_empty() && !meta(&new, "generateName").is_empty() {
            new["metadata"]["name"] = json!(format!("{}{}", meta(&new, "generateName"), self.suffix()));
        }
        match resource.plural {
            "pods" => {
                pod::default(&mut new)?;
                pod::reset_status(&mut new);
            }
            "namespaces" => {
                let name = meta(&new, "name").to_owned();
                new["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
                new["status"] = json!({"phase": "Active"});
                new["spec"] = json!({"finalizers": ["kubernetes"]});
            }
            _ => {}
        }
        node_quantities(resource, &mut new)?;
        let causes = causes(resource, &new);
        if !causes.is_empty() {
            return Err(Refusal::invalid(resource, meta(&new, "name"), &causes));
        }
        new["metadata"]["uid"] = json!(self.uid());
        new["metadata"]["creationTimestamp"] = json!(now());
        let key = object::key(&new);
        self.store.write(|state| {
            if state.get(resource, &key).is_some() {
                return Err(Refusal::already_exists(resource, &key.1));
            }
            Ok(if dry_run { Arc::new(new) } else { state.put(resource, key, new) })
        })
    }

    /// Computes an update: `change` makes the new object of the old one, then the rules of the kind and subresource apply.
    pub(super) fn compute(
        &self,
        target: &Target,
        is_put: bool,
        change: impl FnOnce(&Value) -> Result<Value, Refusal>,
    ) -> Result<Update, Refusal> {
        let resource = target.resource;
        let old = self.get(target)?;
        let mut new = change(&old)?;
        if meta(&new, "name") != target.name {
            return Err(Refusal::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                meta(&new, "name"),
                target.name
            )));
        }
        object::check_update(resource, &old, &mut new, is_put)?;
        match (resource.plural, target.subresource.as_str()) {
            ("pods", "") => pod::default(&mut new)?,
            ("pods", "ephemeralcontainers") => {
                let containers = new["spec"]["ephemeralContainers"].clone();
                new["spec"] = old["spec"].clone();
                new["spec"]["ephemeralContainers"] = containers;
                pod::default(&mut new)?;
            }
            _ => {}
        }
        if target.subresource == "status" {
            keep(&mut new, &old, "spec");
        } else if resource.status {
            keep(&mut new, &old, "status");
        }
        node_quantities(resource, &mut new)?;
        if resource.plural == "pods" && target.subresource.is_empty() {
            pod::check_update(resource, &old, &new)?;
        }
        Ok(Update { old, new })
    }

    /// Commits an update; `None` where the object changed since it was computed.
    pub(super) fn commit(&self, target: &Target, update: Update, dry_run: bool) -> Result<Option<Arc<Value>>, Refusal> {
        let resource = target.resource;
        let key = (target.namespace.clone(), target.name.clone());
        let causes = causes(resource, &update.new);
        if !causes.is_empty() {
            return Err(Refusal::invalid(resource, &key.1, &causes));
        }
        self.store.write(|state| {
            let current = state.get(resource, &key).ok_or_else(|| Refusal::not_found(resource, &key.1))?;
            if !Arc::ptr_eq(&current, &update.old) {
                return Ok(None);
            }
            // An update that changes nothing makes no version, as in the original.
            if *current == update.new {
                return Ok(Some(current));
            }
            if dry_run {
                return Ok(Some(Arc::new(update.new)));
            }
            let over = !meta(&update.new, "deletionTimestamp").is_empty()
                && !has_finalizers(&update.new)
                && update.new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0;
            let stored = state.put(resource, key.clone(), update.new);
            if over {
                state.remove(resource, &key);
            }
            Ok(Some(stored))
        })
    }

    /// Deletes, gracefully where the kind and the request say so: then the object stays with a deletion timestamp.
    pub(super) fn delete(&self, target: &Target, deletion: &Deletion) -> Result<Arc<Value>, Refusal> {
        let resource = target.resource;
        let key = (target.namespace.clone(), target.name.clone());
        self.store.write(|state| {
            let old = state.get(resource, &key).ok_or_else(|| Refusal::not_found(resource, &key.1))?;
            for (wanted, field, word) in
                [(&deletion.uid, "uid", "UID"), (&deletion.resource_version, "resourceVersion", "ResourceVersion")]
            {
                if !wanted.is_empty() && wanted != meta(&old, field) {
                    let why = format!(
                        "Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {}",
                        meta(&old, field)
                    );
                    return Err(Refusal::conflict(resource, &resource.qualified(), &key.1, &why));
                }
            }
            if resource.plural == "namespaces" && matches!(key.1.as_str(), "default" | "kube-system" | "kube-public") {
                return Err(Refusal::new(
                    403,
                    "Forbidden",
                    format!("namespaces {:?} is forbidden: this namespace may not be deleted", key.1),
                ));
            }
            if deletion.dry_run {
                return Ok(old);
            }
            let grace = if resource.plural == "pods" { pod::grace(&old, deletion.grace) } else { 0 };
            if grace > 0 || has_finalizers(&old) {
                return Ok(terminate(state, resource, key, &old, grace));
            }
            if resource.plural == "namespaces" {
                empty_namespace(state, &key.1);
            }
            state.remove(resource, &key).ok_or_else(|| Refusal::not_found(resource, &key.1))
        })
    }

    /// Binds a pod, by the rules of the original.
    pub(super) fn bind(&self, target: &Target, binding: &Value, dry_run: bool) -> Result<(), Refusal> {
        let resource = target.resource;
        let given = meta(binding, "name");
        if !given.is_empty() && given != target.name {
            return Err(Refusal::bad_request("name in URL does not match name in Binding object"));
        }
        let given = meta(binding, "namespace");
        if !given.is_empty() && given != target.namespace {
            return Err(Refusal::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let mut causes = Vec::new();
        let kind = binding["target"]["kind"].as_str().unwrap_or_default();
        if !matches!(kind, "" | "Node") {
            causes.push(Cause::new(
                "target.kind",
                format!("Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\""),
            ));
        }
        if binding["target"]["name"].as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::new("target.name", "Required value"));
        }
        if !causes.is_empty() {
            return Err(Refusal::invalid(resource, &target.name, &causes));
        }
        let key = (target.namespace.clone(), target.name.clone());
        self.store.write(|state| {
            let pod = state.get(resource, &key).ok_or_else(|| Refusal::not_found(resource, &key.1))?;
            let bound = pod::bind(resource, &pod, binding)?;
            let causes = object::metadata_causes(&bound);
            if !causes.is_empty() {
                return Err(Refusal::invalid(resource, &key.1, &causes));
            }
            if !dry_run {
                state.put(resource, key, bound);
            }
            Ok(())
        })
    }
}

fn causes(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = object::metadata_causes(object);
    match resource.plural {
        "pods" => causes.extend(pod::causes(object)),
        "events" => causes.extend(object::event_causes(resource, object)),
        _ => {}
    }
    causes
}

fn node_quantities(resource: &Resource, node: &mut Value) -> Result<(), Refusal> {
    if resource.plural != "nodes" {
        return Ok(());
    }
    for field in ["capacity", "allocatable"] {
        if let Some(values) = node.get_mut("status").and_then(|s| s.get_mut(field)).and_then(Value::as_object_mut) {
            pod::canonical_quantities(values)?;
        }
    }
    Ok(())
}

fn keep(new: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => new[field] = value.clone(),
        None => {
            if let Some(new) = new.as_object_mut() {
                new.remove(field);
            }
        }
    }
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
}

/// Marks as being deleted; a second request can only shorten the time.
fn terminate(state: &mut State, resource: &'static Resource, key: Key, old: &Arc<Value>, grace: i64) -> Arc<Value> {
    let before = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if !meta(old, "deletionTimestamp").is_empty() && before.is_some_and(|before| before <= grace) {
        return Arc::clone(old);
    }
    let mut new = (**old).clone();
    let end = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(grace));
    new["metadata"]["deletionTimestamp"] = json!(object::at(end.unwrap_or(jiff::Timestamp::MAX)));
    new["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    state.put(resource, key, new)
}

/// The namespace controller's part: here at once.
fn empty_namespace(state: &mut State, namespace: &str) {
    for resource in super::resource::RESOURCES.iter().filter(|resource| resource.namespaced) {
        let keys: Vec<Key> = state.list(resource, namespace).iter().map(|object| object::key(object)).collect();
        for key in keys {
            state.remove(resource, &key);
        }
    }
}
