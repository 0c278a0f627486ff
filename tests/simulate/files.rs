//! What may stand in the files, and what is said where something else does.

use packhorse::simulate::openb;
use packhorse::simulate::trace::Trace;

use super::{Files, text};

const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\na,64000,262144,2,T4\n";
const FIVE: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n";
const ALL: &str =
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n";

fn pods(content: &str) -> Trace {
    let files = Files::new(NODES, content);
    openb::pods(&files.path("pods.csv")).unwrap()
}

#[test]
fn the_whole_trace_is_read() {
    let cluster = openb::nodes(&super::openb("openb_node_list_gpu_node.csv")).unwrap();
    assert_eq!((cluster.machines.len(), cluster.capacity()), (1_213, 6_212_000));
    for (mix, count, timed) in [
        ("default", 8_152, true),
        ("cpu100", 7_853, true),
        ("gpushare40", 8_152, true),
        ("gpushare80", 8_152, true),
        ("gpuspec20", 8_152, true),
        ("multigpu30", 8_508, false),
    ] {
        let trace = openb::pods(&super::openb(&format!("openb_pod_list_{mix}.csv"))).unwrap();
        assert_eq!(trace.pods.len(), count, "{mix}");
        assert!(trace.pods.iter().all(|pod| pod.lifetime.is_some() == timed), "{mix}");
    }
}

#[test]
fn five_columns_in_any_order_are_enough() {
    let all =
        pods(&format!("{ALL}p,4000,1024,1,500,,LS,Running,10,30,20\nq,4000,1024,1,500,T4|A10,BE,Failed,10,30,\n"));
    let five = pods("gpu_milli,name,num_gpu,memory_mib,cpu_milli\n500,p,1,1024,4000\n500,q,1,1024,4000\n");
    assert_eq!(all.shapes[0], five.shapes[0]);
    assert_eq!(five.shapes.len(), 1);
    assert_eq!(all.shapes[1].models, ["T4", "A10"]);
    // From being scheduled; who never was, from its creation.
    assert_eq!(all.pods.iter().map(|pod| pod.lifetime).collect::<Vec<_>>(), [Some(10.0), Some(20.0)]);
    assert!(five.pods.iter().all(|pod| pod.lifetime.is_none()));
}

#[test]
fn a_damaged_row_is_named_with_the_remedy() {
    for (pods, expected) in [
        ("p,4000,1024,1,500\nq,x,1024,1,500\n", r#"pods.csv line 3: cpu_milli "x""#),
        ("p,-1,1024,1,500\n", r#"pods.csv line 2: cpu_milli "-1": out of range; write millicores, 0 or more"#),
        ("p,1,99999999999999,1,500\n", r#"memory_mib "99999999999999": out of range"#),
        ("p,1,1,1,1001\n", r#"gpu_milli "1001": out of range; write thousandths of each GPU, 0 to 1000"#),
        ("p,1,1,2,500\n", r#"gpu_milli "500": parts of several GPUs; write 1000, or 1 in num_gpu"#),
        ("p,1,1,0,500\n", r#"gpu_milli "500": the pod asks for no GPU"#),
        ("p,1,1,1,0\n", r#"gpu_milli "0": nothing of each GPU"#),
        ("p,1,1,,0\n", r#"num_gpu "": cannot parse"#),
        ("p,1,1,999999,1000\n", r#"num_gpu "999999": out of range"#),
        ("p,1,1,1\n", "line: 2"),
        ("", "pods.csv has no rows"),
    ] {
        let output = Files::new(NODES, &format!("{FIVE}{pods}")).simulate(&[]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{pods:?}");
        assert!(said.starts_with("error: ") && said.contains(expected), "{pods:?}: {said}");
        assert_eq!(text(&output.stdout), "");
    }
    for (row, expected) in [
        ("p,1,1,1,500,,LS,Running,10,5,\n", r#"line 2: deletion_time "5": before its start at 10"#),
        ("p,1,1,1,500,,LS,Running,NaN,5,\n", r#"line 2: creation_time "NaN": out of range"#),
        ("p,1,1,1,500,,LS,Running,soon,5,\n", r#"line 2: creation_time "soon""#),
    ] {
        let said = text(&Files::new(NODES, &format!("{ALL}{row}")).simulate(&[]).stderr);
        assert!(said.contains(expected), "{row:?}: {said}");
    }
}

#[test]
fn damaged_nodes_are_named_too() {
    for (nodes, expected) in [
        ("b,1,1,-2,T4\n", r#"nodes.csv line 3: gpu "-2""#),
        ("b,1,1,1000,T4\n", r#"nodes.csv line 3: gpu "1000": out of range"#),
        ("b,1,1,1,\n", r#"nodes.csv line 3: model "": the node has GPUs of no model; write their model"#),
        (",1,1,1,T4\n", r#"nodes.csv line 3: sn "": a node needs a name"#),
        ("a,1,1,1,T4\n", r#"nodes.csv line 3: sn "a": the node of line 2 has this name too"#),
    ] {
        let said = text(&Files::new(&format!("{NODES}{nodes}"), FIVE).simulate(&[]).stderr);
        assert!(said.contains(expected), "{nodes:?}: {said}");
    }
}

#[test]
fn columns_are_known_by_name() {
    for (header, expected) in [
        ("name,cpu_milli,memory_mib,num_gpu\n", "column gpu_milli is missing; write the columns name,cpu_milli"),
        ("name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spce\n", r#""gpu_spce" is no column that is known here"#),
        ("name,cpu_milli,memory_mib,num_gpu,gpu_milli,name\n", "column name is there twice"),
    ] {
        let said = text(&Files::new(NODES, &format!("{header}p,1,1,1,1\n")).simulate(&[]).stderr);
        assert!(said.contains("pods.csv line 1") && said.contains(expected), "{header:?}: {said}");
    }
}

#[test]
fn files_that_are_not_there_or_leave_nothing_to_do_are_told() {
    let files = Files::new(NODES, &format!("{FIVE}p,1000,1024,0,0\n"));
    assert!(text(&files.simulate(&[]).stderr).contains("no pod asks for a GPU"));
    let said = text(&super::simulate(&files.path("none.csv"), &files.path("pods.csv"), &[]).stderr);
    assert!(said.contains("cannot read") && said.contains("none.csv"), "{said}");
    let files = Files::new("sn,cpu_milli,memory_mib,gpu,model\na,64000,262144,0,\n", &format!("{FIVE}p,1,1,1,500\n"));
    assert!(text(&files.simulate(&[]).stderr).contains("no node has a GPU"));
    let files = Files::new(NODES, &format!("{FIVE}p,1,1,1,500\n"));
    let said = text(&files.simulate(&["--departures", "--lifetimes", "trace"]).stderr);
    assert!(said.contains("1 of 1 pods have no lifetime; use --lifetimes exponential"), "{said}");
}
