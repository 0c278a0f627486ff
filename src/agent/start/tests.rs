//! Verdicts of the check, case by case.
