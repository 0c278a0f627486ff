//! `AdmissionReview` v1, both ways.
