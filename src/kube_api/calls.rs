//! The few API calls Packhorse makes.
