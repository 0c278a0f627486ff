//! The pod annotation `packhorse.dev/request`.
