"""Read rows from files (`files`), and tell from the columns' names what they hold (`aliases`)."""
