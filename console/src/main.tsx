import { render } from "preact";

render(<main class="gate">Sallyport</main>, document.getElementById("app")!);
