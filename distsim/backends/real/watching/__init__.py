"""The launcher's eye on the ranks: what they do, who is dead, hung or waiting for whom."""
