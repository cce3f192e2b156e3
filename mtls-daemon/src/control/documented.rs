//! Every `mtlsd …` of the documents is a command line that there is.

use clap::CommandFactory;

use super::cli::Cli;

#[test]
fn every_command_line_of_the_documents_is_taken() {
    let seen = mtls_documents::assert_taken(&Cli::command(), &["mtlsd"]);
    assert!(seen > 200, "only {seen} were found");
    println!("{seen} command lines");
}
