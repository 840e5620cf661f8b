"""What real ranks send each other, over gloo and NCCL."""
