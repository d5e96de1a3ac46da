//! Page-table frames that can run out.
