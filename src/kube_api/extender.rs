//! kube-scheduler's extender wire types.
