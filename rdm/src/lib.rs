//! What a machine's firmware reserves, and which devices can be passed through.
