"""Keep the exam out of the textbook: find evaluation items inside training documents."""
