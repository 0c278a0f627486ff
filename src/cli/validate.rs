//! `packhorse validate`: one pod on the whole path, from admission to the end of a CUDA sample, each step told. See [`crate::validate`].

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use super::access::{Access, Reached};
use crate::validate::{Progress, Step, progress};

/// How often the pod is looked at.
const LOOK: Duration = Duration::from_millis(500);
const SILENCE: &str = "nothing was said";

/// Run the CUDA vectorAdd sample on a share of a GPU as a Job, and tell each step: admitted, scheduled, started, finished.
///
/// Exit status 0 where all steps were reached. The Job is deleted in the end. Needs create, list and delete of jobs, and list of pods
/// and events, in the namespace.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    access: Access,
    /// Namespace of the Job [default: the context's]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// The sample; its own command is run
    #[arg(long, value_name = "IMAGE", default_value = "nvcr.io/nvidia/k8s/cuda-sample:vectoradd-cuda12.5.0")]
    image: String,
    /// Memory it asks for, MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..1_000_000))]
    memory: u32,
    /// Only this node will do
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Runtime class, where NVIDIA's runtime is not the default and the nodes have no CDI specification
    #[arg(long, value_name = "NAME")]
    runtime_class: Option<String>,
    /// How long all of it may take, in seconds; pulling the image takes the most
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Do not delete the Job
    #[arg(long)]
    keep: bool,
    /// Prefix of the GPU resources, where the server's resourcePrefix is another
    #[arg(long, value_name = "PREFIX", default_value = "nvidia.com")]
    resource_prefix: String,
}

/// Runs the Job and follows it.
///
/// # Errors
/// The step that was not reached, and why.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let reached = args.access.connect().await?;
        let namespace = args.namespace.clone().unwrap_or_else(|| reached.namespace.clone());
        let jobs: Api<Job> = Api::namespaced(reached.client.clone(), &namespace);
        let job: Job = serde_json::from_value(job(args)).context("cannot write the Job")?;
        let created = jobs.create(&PostParams::default(), &job).await.context("cannot create the Job")?;
        let name = created.metadata.name.unwrap_or_default();
        println!("created    Job {namespace}/{name}");
        let outcome = follow(args, &reached, &namespace, &name).await;
        if args.keep {
            println!("kept       Job {namespace}/{name}");
        } else if let Err(error) = jobs.delete(&name, &DeleteParams::background()).await {
            eprintln!("warning: Job {namespace}/{name} stays behind: {error}");
        }
        outcome
    })
}

fn job(args: &Args) -> Value {
    let prefix = &args.resource_prefix;
    let mut spec = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "main",
            "image": args.image,
            "resources": {"limits": {
                (format!("{prefix}/gpu")): "1", (format!("{prefix}/gpumem")): args.memory.to_string(),
            }},
        }],
    });
    if let Some(node) = &args.node {
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    }
    if let Some(class) = &args.runtime_class {
        spec["runtimeClassName"] = json!(class);
    }
    json!({
        "metadata": {"generateName": "packhorse-validate-"},
        "spec": {"backoffLimit": 0, "activeDeadlineSeconds": args.timeout, "template": {"spec": spec}},
    })
}

async fn follow(args: &Args, reached: &Reached, namespace: &str, name: &str) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(reached.client.clone(), namespace);
    let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
    let deadline = Instant::now() + Duration::from_secs(args.timeout.into());
    let (mut told, mut complained) = (0, None);
    loop {
        let found = pods.list(&selector).await.context("cannot list the Job's pods")?.items;
        let now = match found.first() {
            Some(pod) => progress(&serde_json::to_value(pod).context("cannot read the Job's pod")?),
            None => Progress { trouble: no_pod(reached, namespace, name).await, ..Progress::default() },
        };
        for (step, what) in now.reached.iter().skip(told) {
            println!("{:<11}{what}", step.as_str());
        }
        told = told.max(now.reached.len());
        if now.reached.last().is_some_and(|(step, _)| *step == Step::Finished) {
            return Ok(());
        }
        let next = Step::ALL.get(told).map_or("", |step| step.as_str());
        let trouble = now.trouble.unwrap_or_else(|| SILENCE.to_owned());
        if now.failed {
            bail!("not {next}: {trouble}");
        }
        if Instant::now() > deadline {
            bail!("not {next} within {} s: {trouble}", args.timeout);
        }
        if complained.as_ref() != Some(&trouble) {
            if trouble != SILENCE {
                println!("waiting    {trouble}");
            }
            complained = Some(trouble);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why the Job has no pod, where its events tell.
async fn no_pod(reached: &Reached, namespace: &str, name: &str) -> Option<String> {
    let events: Api<Event> = Api::namespaced(reached.client.clone(), namespace);
    let selector = ListParams::default().fields(&format!("involvedObject.name={name}"));
    // Whoever may not read events is told less.
    let events = events.list(&selector).await.ok()?.items;
    let warning = events.into_iter().rfind(|event| event.type_.as_deref() == Some("Warning"));
    warning.and_then(|event| event.message)
}
