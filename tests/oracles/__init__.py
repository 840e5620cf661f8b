"""What must come out is known without running anything: closed forms, identities, and numbers of other programs."""
