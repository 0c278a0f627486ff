//! Reads nodes and pods from CSV files of the openb format (Alibaba's `cluster-trace-gpu-v2023`). Columns are found by their
//! names; pod files may end after the first five. A damaged row is an [`OpenbError`] that names file, line, field and value: a
//! row that is skipped would change the result without anybody noticing.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use csv::StringRecord;

use super::trace::{Builder, Cluster, Machine, Trace, WHOLE, Wanted};

const NODE_COLUMNS: [&str; 5] = ["sn", "cpu_milli", "memory_mib", "gpu", "model"];
const POD_COLUMNS: [&str; 11] = [
    "name",
    "cpu_milli",
    "memory_mib",
    "num_gpu",
    "gpu_milli",
    "gpu_spec",
    "qos",
    "pod_phase",
    "creation_time",
    "deletion_time",
    "scheduled_time",
];
/// The columns that every pod file has.
const POD_NEEDS: usize = 5;
/// Far beyond any board; a larger number is a damaged row, not a node.
const MOST_GPUS: u32 = 256;
/// 16 Ei milli or bytes fit no sum; far below that every sum is exact.
const MOST: i64 = 1 << 36;

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum OpenbError {
    /// The file cannot be opened or read, or is no CSV.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the reader says, with the line where it has one.
        source: csv::Error,
    },
    /// The first line is not the list of columns.
    #[error("{} line 1: {problem}; write the columns {}", file.display(), columns.join(","))]
    Columns {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What it should be.
        columns: &'static [&'static str],
    },
    /// A row means nothing.
    #[error("{} line {line}: {field} {value:?}: {problem}; {remedy}", file.display())]
    Row {
        /// The file.
        file: PathBuf,
        /// Counted from 1, the columns' names included.
        line: u64,
        /// The column.
        field: &'static str,
        /// What stands there.
        value: String,
        /// Why it means nothing.
        problem: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// No row at all.
    #[error("{} has no rows below the names of its columns", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

/// A file with the places of its columns.
struct Table {
    file: PathBuf,
    /// Beside the known columns: where each is.
    places: Vec<Option<usize>>,
    columns: &'static [&'static str],
    rows: Vec<StringRecord>,
}

/// One row of a file.
struct Row<'a> {
    table: &'a Table,
    record: &'a StringRecord,
}

/// Reads the nodes.
///
/// # Errors
/// See [`OpenbError`].
pub fn nodes(file: &Path) -> Result<Cluster, OpenbError> {
    let table = Table::read(file, &NODE_COLUMNS, NODE_COLUMNS.len())?;
    let mut names: HashMap<String, u64> = HashMap::new();
    let mut machines = Vec::with_capacity(table.rows.len());
    for row in table.rows() {
        let name = row.text("sn");
        if name.is_empty() {
            return Err(row.error("sn", "a node needs a name", "write its name"));
        }
        if let Some(line) = names.insert(name.to_owned(), row.line()) {
            return Err(row.error("sn", format!("the node of line {line} has this name too"), "give each its own"));
        }
        let gpus = row.number("gpu", 0, MOST_GPUS, "write how many GPUs the node has, 0 to 256")?;
        let model = row.text("model");
        if gpus > 0 && model.is_empty() {
            return Err(row.error("model", "the node has GPUs of no model", "write their model"));
        }
        machines.push(Machine {
            name: name.into(),
            cpu: row.amount("cpu_milli", "write millicores, 0 or more")?,
            memory: row.amount("memory_mib", "write MiB, 0 or more")?,
            gpus,
            model: model.into(),
            node: None,
        });
    }
    Ok(Cluster { machines })
}

/// Reads the pods.
///
/// # Errors
/// See [`OpenbError`].
pub fn pods(file: &Path) -> Result<Trace, OpenbError> {
    let table = Table::read(file, &POD_COLUMNS, POD_NEEDS)?;
    let mut trace = Builder::default();
    for row in table.rows() {
        let gpus = row.number("num_gpu", 0, MOST_GPUS, "write how many GPUs the pod asks for, 0 to 256")?;
        let milli = row.number("gpu_milli", 0, WHOLE, "write thousandths of each GPU, 0 to 1000")?;
        if gpus == 0 && milli > 0 {
            return Err(row.error("gpu_milli", "the pod asks for no GPU", "write 0, or 1 in num_gpu"));
        }
        if gpus > 0 && milli == 0 {
            return Err(row.error("gpu_milli", "nothing of each GPU", "write 1 to 1000, or 0 in num_gpu"));
        }
        if gpus > 1 && milli < WHOLE {
            return Err(row.error("gpu_milli", "parts of several GPUs", "write 1000, or 1 in num_gpu"));
        }
        let models = row.text("gpu_spec").split('|').map(str::trim).filter(|model| !model.is_empty());
        let wanted = Wanted {
            cpu: row.amount("cpu_milli", "write millicores, 0 or more")?,
            memory: row.amount("memory_mib", "write MiB, 0 or more")?,
            gpus,
            milli,
            models: models.map(str::to_owned).collect(),
        };
        trace.add(wanted, row.lifetime()?);
    }
    Ok(trace.finish())
}

impl Table {
    fn read(file: &Path, columns: &'static [&'static str], needs: usize) -> Result<Self, OpenbError> {
        let unreadable = |source| OpenbError::Read { file: file.to_owned(), source };
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(file).map_err(unreadable)?;
        let header = reader.headers().map_err(unreadable)?.clone();
        let damaged = |problem| OpenbError::Columns { file: file.to_owned(), problem, columns };
        let mut places = vec![None; columns.len()];
        for (at, name) in header.iter().enumerate() {
            let Some(known) = columns.iter().position(|column| *column == name) else {
                return Err(damaged(format!("{name:?} is no column that is known here")));
            };
            if places[known].replace(at).is_some() {
                return Err(damaged(format!("column {name} is there twice")));
            }
        }
        if let Some(missing) = (0..needs).find(|known| places[*known].is_none()) {
            return Err(damaged(format!("column {} is missing", columns[missing])));
        }
        let rows = reader.records().collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        if rows.is_empty() {
            return Err(OpenbError::Empty { file: file.to_owned() });
        }
        Ok(Self { file: file.to_owned(), places, columns, rows })
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|record| Row { table: self, record })
    }
}

impl Row<'_> {
    fn line(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }

    /// What stands in a column; nothing where the file does not have it.
    fn text(&self, field: &str) -> &str {
        let known = self.table.columns.iter().position(|column| *column == field);
        known.and_then(|known| self.table.places[known]).and_then(|at| self.record.get(at)).unwrap_or_default()
    }

    fn error(&self, field: &'static str, problem: impl Into<String>, remedy: &'static str) -> OpenbError {
        OpenbError::Row {
            file: self.table.file.clone(),
            line: self.line(),
            field,
            value: self.text(field).to_owned(),
            problem: problem.into(),
            remedy,
        }
    }

    fn number<T>(&self, field: &'static str, least: T, most: T, remedy: &'static str) -> Result<T, OpenbError>
    where
        T: FromStr<Err: Display> + PartialOrd + Display,
    {
        let number: T =
            self.text(field).parse().map_err(|error: T::Err| self.error(field, error.to_string(), remedy))?;
        if !(least..=most).contains(&number) {
            return Err(self.error(field, "out of range", remedy));
        }
        Ok(number)
    }

    fn amount(&self, field: &'static str, remedy: &'static str) -> Result<i64, OpenbError> {
        self.number(field, 0, MOST, remedy)
    }

    /// How long the pod ran, where the file tells: from when it was scheduled (some never were: created) to its deletion; at
    /// least a second.
    fn lifetime(&self) -> Result<Option<f64>, OpenbError> {
        let time = |field| {
            if self.text(field).is_empty() {
                return Ok(None);
            }
            self.number(field, 0.0, MOST as f64, "write seconds, 0 or more, or nothing").map(Some)
        };
        let (created, deleted, scheduled) = (time("creation_time")?, time("deletion_time")?, time("scheduled_time")?);
        let (Some(start), Some(end)) = (scheduled.or(created), deleted) else { return Ok(None) };
        if end < start {
            return Err(self.error("deletion_time", format!("before its start at {start}"), "write the time it ended"));
        }
        Ok(Some((end - start).max(1.0)))
    }
}
