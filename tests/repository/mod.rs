//! The repository itself: layers, documents, names of files, examples.

mod documents;
mod examples;
mod layers;
mod paths;
mod quick;
