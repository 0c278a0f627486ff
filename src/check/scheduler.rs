//! kube-scheduler's configuration, which is part of the contract: with another extender setting pods are bound without devices, or not
//! at all; with other score plugins the packing is overruled. Every wrong field is named. Source of the fields: `KubeSchedulerConfiguration`
//! (kubescheduler.config.k8s.io/v1).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::Finding;
use crate::kube_api::names::{GPU_CORES, SCHEDULER};

const CHECK: &str = "scheduler profile";
const RUNS: &str = "scheduler";
/// Score plugins that must not have a say.
const OFF: [&str; 3] = ["NodeResourcesFit", "NodeResourcesBalancedAllocation", "ImageLocality"];
/// A bind that goes wrong makes up to three API calls of 3 s each.
const SHORTEST: Duration = Duration::from_secs(9);

/// Judges the text of the configuration; `place` says where it is.
pub fn judge(text: &str, place: &str) -> Vec<Finding> {
    let config: Value = match serde_saphyr::from_str(text) {
        Ok(config) => config,
        Err(error) => {
            let mistake = crate::yaml::Mistake::new(&error, text);
            return vec![Finding::wrong(
                CHECK,
                format!("{place} cannot be read: {mistake}"),
                "apply deployments/scheduler",
            )];
        }
    };
    let mut wrong = Wrong { place, found: Vec::new() };
    wrong.profile(&config);
    wrong.extender(&config);
    if wrong.found.is_empty() {
        wrong.found.push(Finding::ok(CHECK, format!("{place} is as it must be")));
    }
    wrong.found
}

/// Judges the lease `packhorse` of kube-scheduler's leader election: whether one with the profile runs.
pub fn lease(lease: Option<&Lease>, now: Timestamp) -> Finding {
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let held = spec.filter(|spec| spec.holder_identity.as_deref().is_some_and(|holder| !holder.is_empty()));
    let (Some(spec), Some(renewed)) = (held, held.and_then(|spec| spec.renew_time.as_ref())) else {
        return Finding::wrong(
            RUNS,
            "no kube-scheduler with the profile has taken the lease packhorse",
            "look at the pods of Deployment packhorse-server: kube-scheduler runs beside the server",
        );
    };
    let age = now.as_second() - renewed.0.as_second();
    // The lease lasts 15 s; clocks differ.
    if age > 60 {
        return Finding::wrong(
            RUNS,
            format!("the lease packhorse was renewed {age} s ago"),
            "no kube-scheduler with the profile runs: look at the pods of Deployment packhorse-server",
        );
    }
    Finding::ok(RUNS, format!("{} holds the lease", spec.holder_identity.as_deref().unwrap_or_default()))
}

struct Wrong<'a> {
    place: &'a str,
    found: Vec<Finding>,
}

impl Wrong<'_> {
    fn say(&mut self, field: &str, is: &Value, remedy: &str) {
        let is = if is.is_null() { "absent".to_owned() } else { is.to_string() };
        self.found.push(Finding::wrong(CHECK, format!("{}: {field} is {is}", self.place), remedy));
    }

    fn note(&mut self, field: &str, is: &Value, remedy: &str) {
        let is = if is.is_null() { "absent".to_owned() } else { is.to_string() };
        self.found.push(Finding::note(CHECK, format!("{}: {field} is {is}", self.place), remedy));
    }

    fn profile(&mut self, config: &Value) {
        if config["kind"] != "KubeSchedulerConfiguration" {
            self.say("kind", &config["kind"], "must be KubeSchedulerConfiguration");
        }
        let profiles = config["profiles"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(at) = profiles.iter().position(|profile| profile["schedulerName"] == SCHEDULER) else {
            return self.say("profiles", &config["profiles"], "needs a profile with schedulerName: packhorse");
        };
        let profile = &profiles[at];
        let score = &profile["plugins"]["score"];
        let named =
            |list: &Value, name: &str| list.as_array().is_some_and(|list| list.iter().any(|one| one["name"] == name));
        for plugin in OFF {
            let disabled = named(&score["disabled"], plugin) || named(&score["disabled"], "*");
            if !disabled || named(&score["enabled"], plugin) {
                let field = format!("profiles[{at}].plugins.score.disabled");
                self.say(&field, &score["disabled"], &format!("must name {plugin}, which would overrule the packing"));
            }
        }
        let field = format!("profiles[{at}].plugins.filter.disabled");
        let filters = &profile["plugins"]["filter"]["disabled"];
        if named(filters, "NodeResourcesFit") || named(filters, "*") {
            self.say(&field, filters, "must leave NodeResourcesFit on: it counts CPU, memory and the GPU totals");
        }
        let configs = profile["pluginConfig"].as_array().map(Vec::as_slice).unwrap_or_default();
        let spread = configs.iter().find(|config| config["name"] == "PodTopologySpread").map(|config| &config["args"]);
        let spread = spread.unwrap_or(&Value::Null);
        let none = spread["defaultConstraints"].as_array().is_none_or(Vec::is_empty);
        if spread["defaultingType"] != "List" || !none {
            let field = format!("profiles[{at}].pluginConfig of PodTopologySpread");
            self.say(
                &field,
                spread,
                "must be defaultingType: List and defaultConstraints: []: spreading undoes packing",
            );
        }
    }

    fn extender(&mut self, config: &Value) {
        let extenders = config["extenders"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ours = |extender: &&Value| {
            extender["managedResources"].as_array().is_some_and(|list| {
                list.iter().any(|one| one["name"].as_str().is_some_and(|name| name.starts_with("packhorse.dev/")))
            })
        };
        let Some(extender) =
            extenders.iter().find(ours).or_else(|| extenders.iter().find(|it| !it["bindVerb"].is_null()))
        else {
            return self.say("extenders", &config["extenders"], "needs the extender of deployments/scheduler");
        };
        let at = extenders.iter().position(|other| std::ptr::eq(other, extender)).unwrap_or(0);
        let field = |name: &str| format!("extenders[{at}].{name}");
        for (name, value) in [
            ("filterVerb", "filter"),
            ("bindVerb", "bind"),
            ("prioritizeVerb", "prioritize"),
            ("preemptVerb", "preempt"),
        ] {
            if extender[name] != value {
                self.say(&field(name), &extender[name], &format!("must be {value}"));
            }
        }
        if extender["nodeCacheCapable"] != true {
            let remedy = "must be true: with whole nodes kube-scheduler scores them as if they were empty";
            self.say(&field("nodeCacheCapable"), &extender["nodeCacheCapable"], remedy);
        }
        if extender["ignorable"] == true {
            let remedy =
                "must be false: kube-scheduler would bind pods without devices whenever the server does not answer";
            self.say(&field("ignorable"), &extender["ignorable"], remedy);
        }
        if extender["weight"] != 1 {
            self.say(&field("weight"), &extender["weight"], "must be 1");
        }
        self.resources(&field("managedResources"), &extender["managedResources"]);
        self.address(&field, extender);
        let timeout = &extender["httpTimeout"];
        match timeout.as_str().map(go_duration) {
            Some(Some(long)) if long >= SHORTEST => {}
            Some(Some(_)) | None => {
                self.note(&field("httpTimeout"), timeout, "should be 10s: a bind may take 9 s; the default is 5 s");
            }
            Some(None) => self.say(&field("httpTimeout"), timeout, "must be a duration such as 10s"),
        }
    }

    fn resources(&mut self, field: &str, resources: &Value) {
        let list = resources.as_array().map(Vec::as_slice).unwrap_or_default();
        if !list.iter().any(|one| one["name"] == GPU_CORES) {
            self.say(field, resources, &format!("must name {GPU_CORES}: by it kube-scheduler knows whom to ask about"));
        }
        for one in list.iter().filter(|one| one["name"] == GPU_CORES && one["ignoredByScheduler"] == true) {
            self.say(
                &format!("{field} {GPU_CORES} ignoredByScheduler"),
                &one["ignoredByScheduler"],
                "must be false: it is counted",
            );
        }
        for one in list.iter().filter(|one| one["name"] != GPU_CORES) {
            self.say(field, &one["name"], &format!("must be {GPU_CORES} alone, which every GPU container carries"));
        }
    }

    fn address(&mut self, field: &impl Fn(&str) -> String, extender: &Value) {
        let prefix = extender["urlPrefix"].as_str().unwrap_or_default();
        let (scheme, rest) = prefix.split_once("://").unwrap_or_default();
        let host = rest.split('/').next().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host).trim_matches(['[', ']']);
        let address = host.parse::<std::net::IpAddr>();
        let local = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        let https = extender["enableHTTPS"] == true;
        match scheme {
            "http" | "https" => {}
            _ => {
                let remedy = "must be http://127.0.0.1:9480, the server's --extender-listen";
                return self.say(&field("urlPrefix"), &extender["urlPrefix"], remedy);
            }
        }
        if (scheme == "https") != https {
            self.say(
                &field("enableHTTPS"),
                &extender["enableHTTPS"],
                &format!("must fit urlPrefix, which is {prefix}"),
            );
        }
        if !local && !https {
            let remedy = "must be loopback: whoever reaches the extender may book GPUs; elsewhere only with mutual TLS";
            self.say(&field("urlPrefix"), &extender["urlPrefix"], remedy);
        }
        let tls = &extender["tlsConfig"];
        if https && (tls["insecure"] == true || (tls["caFile"].is_null() && tls["caData"].is_null())) {
            self.say(&field("tlsConfig"), tls, "must name caFile or caData: without it nothing is verified");
        }
    }
}

/// `10s`, `1m30s`, `500ms` as Go writes them.
fn go_duration(text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Level;
    use super::*;

    /// The shipped configuration.
    fn shipped() -> Value {
        let manifest = include_str!("../../deployments/scheduler/kube-scheduler.yaml");
        let object: Value = serde_saphyr::from_str(manifest).unwrap();
        serde_saphyr::from_str(object["data"]["config.yaml"].as_str().unwrap()).unwrap()
    }

    fn judged(config: &Value) -> Vec<Finding> {
        judge(&config.to_string(), "here")
    }

    #[test]
    fn the_shipped_profile_is_in_order() {
        let found = judged(&shipped());
        assert!(matches!(&found[..], [Finding { level: Level::Ok, .. }]), "{found:?}");
    }

    #[test]
    fn each_wrong_field_is_named() {
        for (pointer, value, field) in [
            ("/kind", json!("Pod"), "kind"),
            ("/profiles/0/schedulerName", json!("other"), "profiles"),
            (
                "/profiles/0/plugins/score/disabled",
                json!([{"name": "ImageLocality"}]),
                "profiles[0].plugins.score.disabled",
            ),
            ("/profiles/0/pluginConfig/0/args/defaultingType", json!("System"), "PodTopologySpread"),
            ("/profiles/0/pluginConfig/0/args/defaultConstraints", json!([{"maxSkew": 1}]), "PodTopologySpread"),
            ("/extenders", json!([]), "extenders"),
            ("/extenders/0/filterVerb", json!("f"), "extenders[0].filterVerb"),
            ("/extenders/0/bindVerb", json!(null), "extenders[0].bindVerb is absent"),
            ("/extenders/0/prioritizeVerb", json!(null), "extenders[0].prioritizeVerb"),
            ("/extenders/0/preemptVerb", json!(null), "extenders[0].preemptVerb"),
            ("/extenders/0/nodeCacheCapable", json!(false), "extenders[0].nodeCacheCapable is false"),
            ("/extenders/0/ignorable", json!(true), "extenders[0].ignorable is true"),
            ("/extenders/0/weight", json!(5), "extenders[0].weight is 5"),
            ("/extenders/0/managedResources", json!([]), "extenders[0].managedResources"),
            ("/extenders/0/managedResources/0/ignoredByScheduler", json!(true), "ignoredByScheduler"),
            ("/extenders/0/managedResources/0/name", json!("nvidia.com/gpu"), "extenders[0].managedResources"),
            ("/extenders/0/urlPrefix", json!("http://10.0.0.1:9480"), "extenders[0].urlPrefix"),
            ("/extenders/0/urlPrefix", json!("127.0.0.1:9480"), "extenders[0].urlPrefix"),
            ("/extenders/0/urlPrefix", json!("https://127.0.0.1:9480"), "extenders[0].enableHTTPS"),
            ("/extenders/0/httpTimeout", json!("soon"), "extenders[0].httpTimeout"),
        ] {
            let mut config = shipped();
            match config.pointer_mut(pointer) {
                Some(at) => *at = value.clone(),
                None => panic!("{pointer} is not in the shipped profile"),
            }
            let found = judged(&config);
            let named = |it: &Finding| it.level == Level::Wrong && it.found.contains(field) && it.remedy.is_some();
            assert!(found.iter().any(named), "{pointer} = {value}: {found:?}");
        }
    }

    #[test]
    fn a_lease_that_nobody_renews_is_wrong() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let held = |renewed: &str| {
            serde_json::from_value::<Lease>(json!({"spec": {"holderIdentity": "a", "renewTime": renewed}})).unwrap()
        };
        for (lease, level) in [
            (None, Level::Wrong),
            (Some(Lease::default()), Level::Wrong),
            (Some(held("2026-01-01T00:08:00.000000Z")), Level::Wrong),
            (Some(held("2026-01-01T00:09:50.000000Z")), Level::Ok),
        ] {
            assert_eq!(super::lease(lease.as_ref(), now).level, level, "{lease:?}");
        }
    }

    #[test]
    fn https_needs_something_to_trust() {
        let mut config = shipped();
        config["extenders"][0]["urlPrefix"] = json!("https://extender.example:9480");
        config["extenders"][0]["enableHTTPS"] = json!(true);
        assert!(judged(&config)[0].found.contains("extenders[0].tlsConfig"), "{:?}", judged(&config));
        config["extenders"][0]["tlsConfig"] = json!({"caFile": "/ca.crt"});
        assert_eq!(judged(&config)[0].level, Level::Ok);
    }

    #[test]
    fn a_short_timeout_is_told_and_what_is_no_yaml_too() {
        for (timeout, level) in [
            (json!("10s"), Level::Ok),
            (json!("1m30s"), Level::Ok),
            (json!("500ms"), Level::Note),
            (json!(null), Level::Note),
        ] {
            let mut config = shipped();
            config["extenders"][0]["httpTimeout"] = timeout.clone();
            assert_eq!(judged(&config)[0].level, level, "{timeout}");
        }
        let found = judge("a: [", "here");
        assert!(found[0].level == Level::Wrong && found[0].found.contains("line"), "{found:?}");
    }
}
