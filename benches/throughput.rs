//! Skeleton.
mod figures;

fn main() {
    if !figures::is_bench() {
        return;
    }
    figures::record("throughput", 0.0, "", &serde_json::Value::Null);
}
